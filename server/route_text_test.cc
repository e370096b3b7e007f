// SPDX-License-Identifier: Apache-2.0
#include "server/route_text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

RouteSource Flag(std::string text) {
  return RouteSource(
      FlagSetting{.flag = 0, .name = "route", .value = std::move(text), .place = ""});
}

// "name | key=value@index ..."
std::string Scanned(const RouteSource& source) {
  const absl::StatusOr<RouteText> route = ScanRoute(source);
  if (!route.ok()) return std::string(route.status().message());
  std::string text(route->name);
  text += " |";
  for (const RouteWord& word : route->words) {
    text.append(" ").append(word.key).append("=").append(word.value);
    text += "@" + std::to_string(word.at);
  }
  return text;
}

std::vector<std::string> Split(std::string_view text) {
  const absl::StatusOr<std::vector<RouteSource>> sources = SplitRoutes(text, "f");
  if (!sources.ok()) return {std::string(sources.status().message())};
  std::vector<std::string> found;
  for (const RouteSource& source : *sources) found.push_back(Scanned(source));
  return found;
}

TEST(RouteTextTest, ARouteIsANameAndWords) {
  EXPECT_EQ(Scanned(Flag("pg listen=:5432 to=a:1")), "pg | listen=:5432@3 to=a:1@16");
  EXPECT_EQ(Scanned(Flag("  pg;listen=:5432 ;; to=a:1\t")), "pg | listen=:5432@5 to=a:1@21");
  EXPECT_EQ(Scanned(Flag("x")), "x |");
  EXPECT_EQ(Scanned(Flag("x k=")), "x | k=@2");
  EXPECT_EQ(Scanned(Flag("x k=a=b#c")), "x | k=a=b#c@2");
}

TEST(RouteTextTest, AFileHasOnePerLine) {
  EXPECT_THAT(Split("a k=1\nb k=2"), ElementsAre("a | k=1@2", "b | k=2@2"));
  EXPECT_THAT(Split("\n# comment\n  \na k=1 # more\n;\n"), ElementsAre("a | k=1@2"));
  EXPECT_THAT(Split(""), IsEmpty());
  EXPECT_THAT(Split("a k=#1\r\n"), ElementsAre("a | k=#1@2"));
}

TEST(RouteTextTest, ALineMayGoOn) {
  EXPECT_THAT(Split("a \\\n  k=1\nb"), ElementsAre("a | k=1@6", "b |"));
  EXPECT_THAT(Split("a k=\\\n1"), ElementsAre("f:2: column 1: 1: not key=value"));
  EXPECT_THAT(Split("a k=1 # ends here \\\nb"), ElementsAre("a | k=1@2", "b |"));
  EXPECT_THAT(Split("a \\"), ElementsAre("a |"));
}

TEST(RouteTextTest, AnErrorSaysWhere) {
  const std::pair<std::string, std::string> table[] = {
      {"", "column 1: a route begins with its name: NAME listen=... to=..."},
      {"listen=:1", "column 1: a route begins with its name: NAME listen=... to=..."},
      {"a/b k=1", "column 1: a name has at most 64 letters, digits, '_', '-' or '.'"},
      {"a k", "column 3: k: not key=value"},
      {"a =1", "column 3: =1: not key=value"},
      {"a k=1 k=2", "column 7: k: given twice"},
      {"a k=\x01", "column 5: a control character"},
  };
  for (const auto& [text, problem] : table) {
    const absl::StatusOr<RouteText> route = ScanRoute(Flag(text));
    EXPECT_THAT(std::string(route.status().message()), testing::EndsWith(": " + problem)) << text;
    EXPECT_THAT(std::string(route.status().message()), testing::StartsWith("--route=")) << text;
  }
  EXPECT_THAT(Split("\n\na \\\n  k=1 \\\n  k"), ElementsAre("f:5: column 3: k: not key=value"));
  EXPECT_EQ(Scanned(Flag(std::string(64, 'n'))), std::string(64, 'n') + " |");
  EXPECT_THAT(Scanned(Flag(std::string(65, 'n'))), testing::HasSubstr("at most 64"));
}

TEST(RouteTextTest, TooManyRoutesAreRefused) {
  std::string text;
  for (size_t i = 0; i < kRoutesMax; ++i) text += "a\n";
  EXPECT_EQ(Split(text).size(), kRoutesMax);
  EXPECT_THAT(Split(text + "a"), ElementsAre("f:1001: column 1: more than 1000 routes"));
}

}  // namespace
}  // namespace parkway
