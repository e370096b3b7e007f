// SPDX-License-Identifier: Apache-2.0
#include "server/route_text.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace parkway {
namespace {

constexpr std::string_view kSeparators = " \t\r\n;";

bool IsNameLetter(unsigned char c) {
  return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
}

bool IsForeign(unsigned char c) {
  return std::iscntrl(c) != 0 && c != '\t' && c != '\r' && c != '\n';
}

// The comments of a line, and what continues it, made blanks. True if it goes on in the next.
bool Blank(std::string& line) {
  for (size_t i = 0; i < line.size(); ++i) {
    const bool begins_word = i == 0 || kSeparators.find(line[i - 1]) != kSeparators.npos;
    if (line[i] == '#' && begins_word) {
      std::fill(line.begin() + static_cast<ptrdiff_t>(i), line.end(), ' ');
      return false;
    }
  }
  const size_t last = line.find_last_not_of(" \t\r");
  if (last == line.npos || line[last] != '\\') return false;
  line[last] = ' ';
  return true;
}

}  // namespace

absl::Status RouteSource::Error(size_t at, std::string_view problem) const {
  const auto column = [](size_t index) { return "column " + std::to_string(index + 1); };
  if (path_.empty()) return flag_.Error(column(at) + ": " + std::string(problem));
  const std::string_view before = text().substr(0, at);
  const size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
  const auto line = line_ + std::count(before.begin(), before.end(), '\n');
  return InvalidAt(path_ + ":" + std::to_string(line), column(at - line_begin), problem);
}

absl::StatusOr<RouteText> ScanRoute(const RouteSource& source) {
  const std::string_view text = source.text();
  const auto foreign = std::find_if(text.begin(), text.end(), IsForeign);
  if (foreign != text.end()) {
    return source.Error(static_cast<size_t>(foreign - text.begin()), "a control character");
  }
  RouteText route;
  size_t at = 0;
  const auto next_word = [&] {
    at = std::min(text.find_first_not_of(kSeparators, at), text.size());
    const size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    return text.substr(at, end - at);
  };
  route.name = next_word();
  if (route.name.empty() || route.name.find('=') != route.name.npos) {
    return source.Error(at, "a route begins with its name: NAME listen=... to=...");
  }
  if (route.name.size() > kRouteNameMax ||
      !std::all_of(route.name.begin(), route.name.end(), IsNameLetter)) {
    return source.Error(at, "a name has at most 64 letters, digits, '_', '-' or '.'");
  }
  at += route.name.size();
  for (std::string_view word = next_word(); !word.empty(); word = next_word()) {
    const size_t equal = word.find('=');
    if (equal == word.npos || equal == 0) {
      return source.Error(at, std::string(word) + ": not key=value");
    }
    const std::string_view key = word.substr(0, equal);
    const auto is_same = [&](const RouteWord& other) { return other.key == key; };
    if (std::any_of(route.words.begin(), route.words.end(), is_same)) {
      return source.Error(at, std::string(key) + ": given twice");
    }
    route.words.push_back({key, word.substr(equal + 1), at});
    at += word.size();
  }
  return route;
}

absl::StatusOr<std::vector<RouteSource>> SplitRoutes(std::string_view text,
                                                     const std::string& path) {
  std::vector<RouteSource> routes;
  std::string route;
  int begin = 1;
  for (int number = 1; !text.empty(); ++number) {
    std::string line(text.substr(0, text.find('\n')));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (route.empty()) begin = number;
    const bool goes_on = Blank(line);
    route += line + "\n";
    if (goes_on && !text.empty()) continue;
    if (route.find_first_not_of(kSeparators) != route.npos) {
      routes.emplace_back(std::exchange(route, ""), path, begin);
      if (routes.size() > kRoutesMax) {
        return routes.back().Error(0, "more than " + std::to_string(kRoutesMax) + " routes");
      }
    }
    route.clear();
  }
  return routes;
}

}  // namespace parkway
