// SPDX-License-Identifier: Apache-2.0
//
// Finds the flags on a command line and in the files it names, strictly.
//
// gflags' own reader ignores unknown names in a flagfile, ignores a line there that lacks its
// value, keeps only the last of several --listen, and prints errors itself. So config.cc asks this
// scanner which flag was given which value where, and leaves only the registry to gflags. Nothing
// is printed, and nothing but flagfiles is read.
#ifndef PARKWAY_SERVER_FLAG_SCANNER_H_
#define PARKWAY_SERVER_FLAG_SCANNER_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace parkway {

struct KnownFlag {
  enum class Kind {
    kValue,        // --name=value; on the command line also --name value
    kBool,         // --name, --noname, --name=true, --name=false
    kCommandLine,  // asks for something at once, like --help: the caller has answered it before it
                   // scans
  };

  std::string_view name;  // with '_'
  Kind kind = Kind::kValue;
};

// kInvalidArgument "place: subject: problem", or without a place "subject: problem"; one line,
// whatever bytes they hold.
absl::Status InvalidAt(std::string_view place, std::string_view subject, std::string_view problem);

// One flag as it was given.
struct FlagSetting {
  size_t flag = 0;      // index into the known flags
  std::string name{};   // with '_'
  std::string value{};  // of a bool: "true" or "false"
  std::string place{};  // "file:line" in a flagfile, empty on the command line

  // "--name=value: problem", behind "file:line: " if it stood in a file.
  absl::Status Error(std::string_view problem) const;
};

// Bounds, so that a wrong path or a circle of files ends in words and not in memory.
inline constexpr int kFlagfileDepthMax = 8;
inline constexpr int kFlagfileCountMax = 100;
inline constexpr size_t kFlagCountMax = 10'000;

// Reads `arguments` (argv without the program), in order; --flagfile=FILE stands for the flags in
// that file.
//
//   -name, --name    are the same, and so are '-' and '_' within a name
//   --               ends the flags; nothing may follow, for there are no positional arguments
//   in a file        one --name=value per line; blank lines and lines starting with # say nothing;
//   a value runs to
//                    the end of the line, without quotes; a relative --flagfile is relative to the
//                    file it is in
//
// Errors are kInvalidArgument, one line that names the flag and where it stood.
absl::StatusOr<std::vector<FlagSetting>> ScanFlags(const std::vector<std::string>& arguments,
                                                   const std::vector<KnownFlag>& known);

}  // namespace parkway

#endif  // PARKWAY_SERVER_FLAG_SCANNER_H_
