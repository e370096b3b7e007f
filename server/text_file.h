// SPDX-License-Identifier: Apache-2.0
//
// Small files that people write for the daemon.
#ifndef PARKWAY_SERVER_TEXT_FILE_H_
#define PARKWAY_SERVER_TEXT_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace parkway {

// So that a wrong path ends in words and not in memory.
inline constexpr size_t kTextFileBytesMax = 1 << 20;

// The whole file. BLOCKS THE THREAD. Errors are kInvalidArgument and say what is wrong without
// repeating the path: "No such file or directory", "larger than 1 MiB".
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// `path` as it is meant in a file that is at `other`: relative to that file's folder.
std::string PathBeside(const std::string& other, const std::string& path);

}  // namespace parkway

#endif  // PARKWAY_SERVER_TEXT_FILE_H_
