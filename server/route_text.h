// SPDX-License-Identifier: Apache-2.0
//
// Routes as text, taken apart into words. What the words mean is route_config.h's business.
//
//   pg   listen=:5432 to=db1:5432*3,db2:5432 idle_timeout=5m
//   web  listen=:443 to=web1:8443,web2:8443      # a comment
//
// Words are separated by blanks or ';'. The first is the route's name, every other one is
// key=value. In a file a '#' that begins a word begins a comment, which ends with the line, and a
// '\' at the end of a line goes on in the next.
#ifndef PARKWAY_SERVER_ROUTE_TEXT_H_
#define PARKWAY_SERVER_ROUTE_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/flag_scanner.h"

namespace parkway {

// The text of one route, and where it stands.
class RouteSource {
 public:
  // --route=TEXT.
  explicit RouteSource(FlagSetting flag) : flag_(std::move(flag)) {}
  // TEXT, which begins at `line` of the file. Line ends in it are blanks.
  RouteSource(std::string text, std::string path, int line)
      : flag_{.value = std::move(text)}, path_(std::move(path)), line_(line) {}

  std::string_view text() const { return flag_.value; }

  // kInvalidArgument about what stands at index `at`, one line: "FILE:3: column 7: problem" or
  // "--route=TEXT: column 7: problem".
  absl::Status Error(size_t at, std::string_view problem) const;

 private:
  FlagSetting flag_;  // of a file's only the value
  std::string path_{};
  int line_ = 0;
};

struct RouteWord {
  std::string_view key;
  std::string_view value;
  size_t at = 0;  // index of the key in the text

  size_t value_at() const { return at + key.size() + 1; }
};

// Views into the source's text.
struct RouteText {
  std::string_view name;
  std::vector<RouteWord> words;
};

// Bounds.
inline constexpr size_t kRouteNameMax = 64;  // letters
inline constexpr size_t kRoutesMax = 1000;

// Takes a route's text apart. A name has letters, digits, '_', '-' and '.'; no key comes twice.
// `source` must outlive the result.
absl::StatusOr<RouteText> ScanRoute(const RouteSource& source);

// The routes of a file's text; comments are blanks in them. Errors: more than kRoutesMax.
absl::StatusOr<std::vector<RouteSource>> SplitRoutes(std::string_view text,
                                                     const std::string& path);

}  // namespace parkway

#endif  // PARKWAY_SERVER_ROUTE_TEXT_H_
