// SPDX-License-Identifier: Apache-2.0
#include "server/route_config.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using ::testing::ElementsAre;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

Endpoint At(std::string_view text) { return *Endpoint::Parse(text); }

absl::StatusOr<std::vector<Endpoint>> FakeResolve(std::string_view text) {
  if (text == "pair:80") return std::vector<Endpoint>{At("10.0.0.1:80"), At("10.0.0.2:80")};
  absl::StatusOr<Endpoint> numeric = Endpoint::Parse(text);
  if (numeric.ok()) return std::vector<Endpoint>{*numeric};
  if (text.find(".test:") != text.npos) return absl::NotFoundError("not there");
  return numeric.status();
}

constexpr NameSources kNames = {.resolve = &FakeResolve, .hosts = &FakeResolve};

RouteSource Source(std::string text) {
  return RouteSource(
      FlagSetting{.flag = 0, .name = "route", .value = std::move(text), .place = ""});
}

Route Good(const std::string& text) {
  const RouteSource source = Source(text);
  const absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, RouteOptions(), kNames);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? parsed->route : Route();
}

// Without the flag in front.
std::string Problem(const std::string& text, const absl::Status& status) {
  const std::string start = "--route=" + text + ": ";
  const std::string message(status.message());
  EXPECT_EQ(message.substr(0, start.size()), start);
  return message.substr(std::min(start.size(), message.size()));
}

std::string Bad(const std::string& text) {
  const RouteSource source = Source(text);
  return Problem(text, ParseRoute(source, RouteOptions(), kNames).status());
}

// Of routes that stand one by one, the problem with the last.
std::string BadTogether(const std::vector<std::string>& texts) {
  std::vector<RouteSource> sources;
  sources.reserve(texts.size());
  for (const std::string& text : texts) sources.push_back(Source(text));
  std::vector<ParsedRoute> routes;
  for (const RouteSource& source : sources) {
    absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, RouteOptions(), kNames);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (parsed.ok()) routes.push_back(*std::move(parsed));
  }
  const absl::Status status = CheckRoutes(routes);
  return status.ok() ? "" : Problem(texts.back(), status);
}

TEST(RouteConfigTest, ReadsNamesAndPrintsThemAsWritten) {
  const Route route = Good("x listen=:1 to=db.test:5432*2,srv:_db._tcp.test.*3@backup/max=9");
  ASSERT_EQ(route.backends.size(), 2u);
  EXPECT_EQ(route.backends[0].question, (Question{.srv = false, .name = "db.test"}));
  EXPECT_EQ(route.backends[0].port, 5432);
  EXPECT_EQ(route.backends[0].weight, 2);
  EXPECT_EQ(route.backends[1].question, (Question{.srv = true, .name = "_db._tcp.test."}));
  EXPECT_EQ(route.backends[1].max, 9);
  EXPECT_TRUE(route.backends[1].backup);
  EXPECT_EQ(FormatRoute(route, RouteOptions()),
            "x listen=:1 to=db.test:5432*2,srv:_db._tcp.test.*3@backup/max=9");
}

TEST(RouteConfigTest, NamesHaveLabels) {
  const std::string label(63, 'a');
  Good("x listen=:1 to=srv:" + label + "." + label);
  for (const std::string& name :
       {std::string("a..b"), std::string(".a"), std::string("."), label + "a", std::string("a,"),
        std::string("a.."), absl::StrCat(label, ".", label, ".", label, ".", label)}) {
    EXPECT_NE(Bad("x listen=:1 to=srv:" + name), "") << name;
  }
}

TEST(RouteConfigTest, ASourceMayFitWhatANameWillStandFor) {
  Good("x listen=:1 to=db.test:80 source=::1");
}

TEST(RouteConfigTest, ReadsARoute) {
  const Route route = Good(
      "web listen=:80,:81 from=10.0.0.0/8,::1 to=pair:80*3,10.0.0.9:81@backup,"
      "unix:@b*0@drain/max=9 idle_timeout=5m backlog=7");
  EXPECT_EQ(route.name, "web");
  ASSERT_EQ(route.listen.size(), 2u);
  EXPECT_EQ(route.listen[1].text, ":81");
  EXPECT_THAT(route.listen[0].at, ElementsAre(At(":80")));
  EXPECT_EQ(route.from.size(), 2u);
  ASSERT_EQ(route.backends.size(), 3u);
  EXPECT_EQ(route.backends[0].text, "pair:80");
  EXPECT_EQ(route.backends[0].weight, 3);
  EXPECT_EQ(route.backends[0].at.size(), 2u);
  EXPECT_TRUE(route.backends[1].backup);
  EXPECT_EQ(route.backends[1].weight, 1);
  EXPECT_TRUE(route.backends[2].drain);
  EXPECT_EQ(route.backends[2].weight, 0);
  EXPECT_THAT(route.backends[2].at, ElementsAre(At("unix:@b")));
  EXPECT_EQ(route.backends[2].max, 9);
  EXPECT_EQ(route.backends[1].max, 0);
  EXPECT_EQ(route.options.idle_timeout, 5min);
  EXPECT_EQ(route.options.backlog, 7);
  EXPECT_EQ(route.options.connect_timeout, 5s);
  EXPECT_EQ(route.mode, Mode::kProxy);
  EXPECT_EQ(Good("e listen=:1 to=echo").mode, Mode::kEcho);
  EXPECT_EQ(Good("d listen=:1 to=discard").mode, Mode::kDiscard);
}

TEST(RouteConfigTest, ReadsWhatClientsAskFor) {
  const Route route = Good("x listen=:1 sni=A.Example,*.b.example alpn=h2,http/1.1 to=echo");
  EXPECT_THAT(route.sni, ElementsAre("a.example", "*.b.example"));
  EXPECT_THAT(route.alpn, ElementsAre("h2", "http/1.1"));
}

TEST(RouteConfigTest, ReadsWhereClientsMayGo) {
  const Route route = Good("x listen=:1 to=original_dst allow_dst=10.0.0.0/8,::1 source=client");
  EXPECT_TRUE(route.to_original_dst());
  EXPECT_EQ(route.mode, Mode::kProxy);
  EXPECT_TRUE(route.backends.empty());
  EXPECT_TRUE(route.allow_dst.Allow(At("10.0.0.1:80")));
  EXPECT_TRUE(route.allow_dst.Allow(At("[::1]:80")));
  EXPECT_FALSE(route.allow_dst.Allow(At("192.0.2.1:80")));
  EXPECT_TRUE(route.options.source_is_client);
  EXPECT_FALSE(Good("x listen=:1 to=pair:80").to_original_dst());
  // Addresses of both families, since it is not known where clients are going.
  EXPECT_EQ(
      Good("x listen=:1 to=original_dst allow_dst=::/0 source=10.0.0.3,::1").options.source.size(),
      2u);
}

TEST(RouteConfigTest, TheSourceIsTheClientsOrSomeOfOurs) {
  RouteOptions defaults;
  defaults.source_is_client = true;
  const RouteSource source = Source("x listen=:1 to=pair:80 source=10.0.0.3");
  const absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, defaults, kNames);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->route.options.source_is_client);
  EXPECT_EQ(FormatRoute(parsed->route, defaults), "x listen=:1 to=pair:80 source=10.0.0.3");
  EXPECT_EQ(FormatRoute(Good("x listen=:1 to=pair:80 source=client"), defaults),
            "x listen=:1 to=pair:80");
  EXPECT_EQ(Bad("x listen=:1 to=pair:80 source=client,10.0.0.3"),
            "column 24: source=client,10.0.0.3: client: not a numeric address");
}

// What a flag says is only the default, of which there is nothing to choose here.
TEST(RouteConfigTest, OriginalDestinationsIgnoreHowBackendsAreChosen) {
  RouteOptions defaults;
  defaults.balance = Balance::kLeastConn;
  defaults.health = Health::kTcp;
  const RouteSource source = Source("x listen=:1 to=original_dst allow_dst=::/0");
  const absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, defaults, kNames);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FormatRoute(parsed->route, defaults), "x listen=:1 to=original_dst allow_dst=::/0");
}

TEST(RouteConfigTest, ARouteMayTakeTheSourcesOfTheFlagsBack) {
  RouteOptions defaults;
  defaults.source = {*Endpoint::ParseAddress("10.0.0.3")};
  const RouteSource source = Source("x listen=:1 to=pair:80 source=");
  const absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, defaults, kNames);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->route.options.source.empty());
  EXPECT_EQ(FormatRoute(parsed->route, defaults), "x listen=:1 to=pair:80 source=");
}

TEST(RouteConfigTest, ASocketMayBeCalledAsAMark) {
  EXPECT_THAT(Good("x listen=:1 to=unix:@backup").backends[0].at, ElementsAre(At("unix:@backup")));
  EXPECT_FALSE(Good("x listen=:1 to=unix:@backup").backends[0].backup);
  EXPECT_TRUE(Good("x listen=:1 to=unix:@a@backup").backends[0].backup);
  EXPECT_THAT(Good("x listen=:1 to=unix:/a*b").backends[0].at, ElementsAre(At("unix:/a*b")));
}

TEST(RouteConfigTest, ShortAddressesHaveMarksToo) {
  EXPECT_TRUE(Good("x listen=:1 to=pair:80@backup,1.1.1.1:1").backends[0].backup);
  EXPECT_TRUE(Good("x listen=:1 to=unix:a@drain,1.1.1.1:1").backends[0].drain);
}

TEST(RouteConfigTest, PrintsWhatItReads) {
  for (const char* const text :
       {"web listen=:80,:81 from=10.0.0.0/8,::1/128 to=pair:80*3,10.0.0.9:81@backup,"
        "unix:@b*0@drain idle_timeout=5m backlog=7",
        "e listen=:1 to=echo",
        "u listen=:1 to=unix:/a*3*1,unix:/a@drain*1,unix:@backup*1@backup,unix:/max=3/max=0",
        "b listen=:1 to=pair:80*2@backup/max=100,10.0.0.1:81 balance=leastconn health=tcp "
        "health_send=a\\sb\\x3b\\x5c\\r\\n\\x00",
        "s listen=:1 to=pair:80,[::1]:81 source=10.0.0.3,::1,10.0.0.4 congestion=bbr mark=7 "
        "rcvbuf=64KiB mptcp=true",
        "t listen=:1 from=10.0.0.0/8 sni=a.b,*.c alpn=h2,x to=pair:80 accept_proxy=any "
        "trusted=10.0.0.0/8,::1/128 handshake_timeout=3s send_proxy=v2 "
        "send_proxy_tlvs=crc32c,received",
        "o listen=:1 to=original_dst allow_dst=10.0.0.0/8,::1/128 source=client "
        "transparent=true"}) {
    EXPECT_EQ(FormatRoute(Good(text), RouteOptions()), text);
  }
}

TEST(RouteConfigTest, AnErrorSaysWhere) {
  const std::pair<std::string, std::string> table[] = {
      {"x to=echo", "column 1: no listen=ADDRESS"},
      {"x listen=:1", "column 1: no to=BACKEND; to=echo answers itself"},
      {"x listen=:1 tp=echo", "column 13: tp: unknown key; did you mean to?"},
      {"x listen=:1 frobnicate=1",
       "column 13: frobnicate: unknown key; a route has listen, from, sni, alpn, to, allow_dst and "
       "the options of --help"},
      {"x listen=:1 sni=a,b..c to=echo",
       "column 19: b..c: must be the name of a host, or *.NAME for all below it"},
      {"x listen=:1 sni=*.*.c to=echo",
       "column 17: *.*.c: must be the name of a host, or *.NAME for all below it"},
      {"x listen=:1 alpn=h2, to=echo", "column 21: \"\": must have 1 to 255 characters"},
      {"x listen=:1,:99999 to=echo", "column 13: :99999: port must be 0-65535"},
      {"x listen=:1,, to=echo", "column 13: \"\": address is empty"},
      {"x listen=:1 from=10.0.0.0/8,10.0.0.1/8 to=echo",
       "column 29: 10.0.0.1/8: has bits beyond its prefix; widen the prefix or clear them"},
      {"x listen=:1 to=pair:80,:80",
       "column 24: :80: name the host to connect to, such as 127.0.0.1"},
      {"x listen=:1 to=10.0.0.1:0", "column 16: 10.0.0.1:0: a backend's port must be 1-65535"},
      {"x listen=:1 to=pair:80*257",
       "column 16: pair:80*257: the weight must be a whole number, 0 to 256"},
      {"x listen=:1 to=pair:80*",
       "column 16: pair:80*: the weight must be a whole number, 0 to 256"},
      {"x listen=:1 to=pair:80@bakcup",
       "column 16: pair:80@bakcup: unknown mark @bakcup; there are @backup and @drain, one of "
       "them"},
      {"x listen=:1 to=pair:80/max=x",
       "column 16: pair:80/max=x: max must be a whole number, 0 to 100000000"},
      {"x listen=:1 to=pair:80 balance=least",
       "column 24: balance=least: must be rr, leastconn, random2, source, maglev or first"},
      {"x listen=:1 to=pair:80@drain@backup",
       "column 16: pair:80@drain@backup: unknown mark @drain; there are @backup and @drain, one "
       "of them"},
      {"x listen=:1 to=pair:80 source=10.0.0.3,::1",
       "column 24: no backend can be connected to from ::1"},
      {"x listen=:1 source=10.0.0.3 to=unix:/a",
       "column 13: no backend can be connected to from 10.0.0.3"},
      {"x listen=:1 to=pair:80 source=10.0.0.3:80",
       "column 24: source=10.0.0.3:80: 10.0.0.3:80: an IP address without a port"},
      {"x listen=:1 to=pair:80 source=10.0.0.3,10.0.0.3",
       "column 24: source=10.0.0.3,10.0.0.3: 10.0.0.3 stands there twice"},
      {"x listen=:1 to=original_dst",
       "column 13: to=original_dst needs allow_dst=BLOCKS: where clients may go"},
      {"x listen=:1 to=original_dst allow_dst=",
       "column 29: allow_dst=: names no block; 0.0.0.0/0,::/0 are all"},
      {"x listen=:1 allow_dst=10.0.0.0/8 to=echo",
       "column 13: allow_dst: only with to=original_dst"},
      {"x listen=:1 to=pair:80 allow_dst=10.0.0.0/8",
       "column 24: allow_dst: only with to=original_dst"},
      {"x listen=:1 allow_dst=::/0", "column 13: allow_dst: only with to=original_dst"},
      {"x listen=:1 to=original_dst allow_dst=10.0.0.1/8",
       "column 29: allow_dst=10.0.0.1/8: 10.0.0.1/8: has bits beyond its prefix; widen the prefix "
       "or clear them"},
      {"x listen=:1 to=original_dst,pair:80 allow_dst=::/0",
       "column 16: original_dst: original_dst stands alone, in a route: to=original_dst "
       "allow_dst=BLOCKS"},
      {"x listen=:1 to=pair:80,original_dst@backup allow_dst=::/0",
       "column 24: original_dst@backup: original_dst stands alone, in a route: to=original_dst "
       "allow_dst=BLOCKS"},
      {"x listen=:1 to=original_dst/max=5 allow_dst=::/0",
       "column 16: original_dst/max=5: original_dst stands alone, in a route: to=original_dst "
       "allow_dst=BLOCKS"},
      {"x listen=:1 to=original_dst allow_dst=::/0 balance=rr",
       "column 44: balance: not with to=original_dst, where there is no choice"},
      {"x listen=:1 health=off to=original_dst allow_dst=::/0",
       "column 13: health: not with to=original_dst, where there is no choice"},
      {"x listen=:1 to=original_dst allow_dst=::/0 max_queue=5",
       "column 44: max_queue: not with to=original_dst, where there is no choice"},
      {"x listen=:1 to=original_dst allow_dst=::/0 connect_retries=0",
       "column 44: connect_retries: not with to=original_dst, where there is no choice"},
      {"x listen=:1 to=echo idle_timeout=5",
       "column 21: idle_timeout=5: add a unit, for example 5s"},
  };
  for (const auto& [text, problem] : table) EXPECT_EQ(Bad(text), problem);
}

TEST(RouteConfigTest, RoutesThatDoNotGoTogether) {
  const std::string a = "a listen=:80 to=pair:80";
  EXPECT_EQ(BadTogether({a, "a listen=:81 to=echo"}), "column 1: an earlier route is called a too");
  EXPECT_EQ(BadTogether({a, "b listen=:81,:80 to=echo"}),
            "column 14: no client gets here: all go to route a");
  EXPECT_EQ(BadTogether({a, "b listen=0.0.0.0:80 to=echo"}), "column 10: overlaps :80 of route a");
  EXPECT_EQ(BadTogether({"a listen=:80,:80 to=echo"}),
            "column 14: an earlier address covers this one");
  EXPECT_EQ(BadTogether({"a listen=:80 from=10.0.0.0/8 to=echo", "b listen=:80 to=echo backlog=5"}),
            "column 10: backlog must be that of :80 of route a");
  EXPECT_EQ(BadTogether({"a listen=:80 from=10.0.0.0/8 to=echo fastopen=5 mark=9",
                         "b listen=:80 to=echo fastopen=5 mark=8"}),
            "column 10: mark must be that of :80 of route a");
  EXPECT_EQ(BadTogether({"a listen=unix:/a from=10.0.0.0/8 to=echo"}),
            "column 10: clients of a Unix socket have no address for from");
  EXPECT_EQ(BadTogether({"a listen=unix:/a allow=10.0.0.0/8 to=echo"}),
            "column 10: clients of a Unix socket have no address for allow");
  EXPECT_EQ(BadTogether({"a listen=:1 to=echo accept_proxy=v1"}),
            "column 10: accept_proxy needs trusted=BLOCKS: the proxies that may say for whom they "
            "connect");
  EXPECT_EQ(BadTogether({"a listen=:1 to=pair:80 send_proxy=v1 send_proxy_tlvs=crc32c"}),
            "column 10: send_proxy=v1 has no TLVs; drop send_proxy_tlvs");
  EXPECT_EQ(BadTogether({"a listen=unix:/a to=original_dst allow_dst=::/0"}),
            "column 10: clients of a Unix socket have no original destination");
  EXPECT_EQ(BadTogether({"a listen=:1 to=original_dst allow_dst=::/0 mptcp=true"}),
            "column 10: mptcp goes not with to=original_dst, unless transparent: of Multipath TCP "
            "the kernel tells no original destination");
  EXPECT_EQ(BadTogether({"a listen=:1 from=::1 to=echo", "b listen=:1 to=echo transparent=true"}),
            "column 10: transparent must be that of :1 of route a");
  EXPECT_EQ(BadTogether({"a listen=127.0.0.1:80 to=pair:80,127.0.0.1:80"}),
            "column 34: the route listens there: it would connect to itself");
  EXPECT_EQ(BadTogether({"a listen=:80 to=pair:80*0,pair:80@drain"}),
            "column 17: no backend gets connections: all are drained or of weight 0");
}

TEST(RouteConfigTest, ACircleIsAMistake) {
  EXPECT_EQ(BadTogether({"a listen=127.0.0.1:1 to=127.0.0.1:2", "b listen=:2 to=127.0.0.1:3",
                         "c listen=127.0.0.1:3 to=pair:80,127.0.0.1:1"}),
            "column 1: the route relays to itself, over others");
  EXPECT_EQ(BadTogether({"a listen=127.0.0.1:1 to=127.0.0.1:2", "b listen=:2 to=127.0.0.1:3",
                         "c listen=127.0.0.1:3 to=pair:80,127.0.0.1:1@drain"}),
            "");
}

TEST(RouteConfigTest, RoutesThatDo) {
  EXPECT_EQ(BadTogether({"a listen=:80 from=10.0.0.0/8 to=echo", "b listen=:80 to=echo"}), "");
  EXPECT_EQ(BadTogether({"a listen=:80 sni=a to=echo", "b listen=:80 alpn=h2 to=echo",
                         "c listen=:80 to=echo"}),
            "");
  EXPECT_EQ(BadTogether({"a listen=:0 to=echo", "b listen=:0 to=echo"}), "");
  EXPECT_EQ(BadTogether({"a listen=:1 to=original_dst allow_dst=::/0 mptcp=true transparent=true"}),
            "");
  EXPECT_EQ(
      BadTogether({"a listen=:1 sni=a to=pair:80", "b listen=:1 to=original_dst allow_dst=::/0"}),
      "");
  EXPECT_EQ(BadTogether({"a listen=unix:/a from=10.0.0.0/8 to=echo accept_proxy=v1"}), "");
  // One behind the other.
  EXPECT_EQ(BadTogether({"a listen=127.0.0.1:80 to=127.0.0.1:81", "b listen=127.0.0.1:81 to=echo"}),
            "");
}

}  // namespace
}  // namespace parkway
