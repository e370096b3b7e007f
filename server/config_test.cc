// SPDX-License-Identifier: Apache-2.0
#include "server/config.h"

#include <gflags/gflags.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/version.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

Endpoint At(std::string_view text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  return endpoint.ok() ? *endpoint : Endpoint();
}

// A world of three names, so that no test asks a name server.
absl::StatusOr<std::vector<Endpoint>> FakeResolve(std::string_view text) {
  absl::StatusOr<Endpoint> numeric = Endpoint::Parse(text);
  if (numeric.ok()) return std::vector<Endpoint>{*numeric};
  if (text == "localhost:80") return std::vector<Endpoint>{At("[::1]:80"), At("127.0.0.1:80")};
  if (text == "pair:80") return std::vector<Endpoint>{At("10.0.0.1:80"), At("10.0.0.2:80")};
  if (text == "six:80")
    return std::vector<Endpoint>{At("[2001:db8::1]:80"), At("[2001:db8::2]:80")};
  if (text == "nosuch.invalid:80") {
    return absl::NotFoundError("nosuch.invalid:80: cannot resolve: Name or service not known");
  }
  return numeric.status();
}

absl::StatusOr<ParseResult> Parse(std::vector<std::string> arguments, std::ostream& out) {
  arguments.insert(arguments.begin(), "parkway");
  std::vector<const char*> argv;
  argv.reserve(arguments.size());
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data(), out,
                          {&FakeResolve, &FakeResolve});
}

Config Good(std::vector<std::string> arguments) {
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result = Parse(std::move(arguments), out);
  EXPECT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(out.str(), "");
  if (!result.ok()) return Config();
  EXPECT_EQ(result->action, ParseResult::Action::kRun);
  return result->config;
}

std::string Bad(std::vector<std::string> arguments) {
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result = Parse(std::move(arguments), out);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(out.str(), "");
  return std::string(result.status().message());
}

// With what a proxy needs anyway.
std::string BadProxy(const std::string& flag) { return Bad({"--backend=127.0.0.1:9", flag}); }
Config GoodProxy(const std::string& flag) { return Good({"--backend=127.0.0.1:9", flag}); }

// Of the first route.
std::vector<Endpoint> Listens(const Config& config) {
  std::vector<Endpoint> all;
  for (const Listen& listen : config.routes.front().listen) {
    all.insert(all.end(), listen.at.begin(), listen.at.end());
  }
  return all;
}
std::vector<Endpoint> Backends(const Config& config) {
  std::vector<Endpoint> all;
  for (const Backend& backend : config.routes.front().backends) {
    all.insert(all.end(), backend.at.begin(), backend.at.end());
  }
  return all;
}
std::vector<std::string> ListenTexts(const Config& config) {
  std::vector<std::string> all;
  for (const Listen& listen : config.routes.front().listen) all.push_back(listen.text);
  return all;
}

TEST(ConfigTest, NothingGivenIsATrialRun) {
  const Config config = Good({});
  EXPECT_TRUE(config.embedded_backends);
  EXPECT_EQ(config.routes.size(), 1u);
  EXPECT_EQ(config.routes.front().mode, Mode::kProxy);
  EXPECT_THAT(Listens(config), ElementsAre(At("127.0.0.1:8080")));
  EXPECT_THAT(Backends(config), IsEmpty());
}

TEST(ConfigTest, TheTrialRunTakesOtherFlags) {
  const Config config = Good({"--workers=2", "--idle_timeout=5s"});
  EXPECT_TRUE(config.embedded_backends);
  EXPECT_EQ(config.workers, 2);
}

TEST(ConfigTest, FlagDefaultsAreTheDefaultsOfTheStruct) {
  Config config = Good({});
  config.routes.clear();
  config.embedded_backends = false;
  EXPECT_EQ(config, Config());

  // Parsing starts from the struct, --help prints what gflags holds: both must be the same.
  for (const std::string& line : ToFlags(Config())) {
    const size_t equal = line.find('=');
    const std::string name = line.substr(2, equal - 2);
    const std::string shown = gflags::GetCommandLineFlagInfoOrDie(name.c_str()).default_value;
    const Config parsed = GoodProxy(absl::StrCat("--", name, "=", shown));
    EXPECT_THAT(ToFlags(parsed), testing::Contains(line));
  }
}

TEST(ConfigTest, ListensWhereTheTrialRunDoesByDefault) {
  EXPECT_THAT(Listens(Good({"--backend=10.0.0.1:80"})), ElementsAre(At("127.0.0.1:8080")));
  EXPECT_THAT(Listens(Good({"--mode=echo"})), ElementsAre(At("127.0.0.1:8080")));
  EXPECT_FALSE(Good({"--backend=10.0.0.1:80"}).embedded_backends);
  EXPECT_FALSE(Good({"--mode=echo"}).embedded_backends);
}

TEST(ConfigTest, AddressesAccumulateInOrder) {
  const Config config = Good({"--listen=:1", "--backend", "10.0.0.1:80", "--listen=unix:/run/p",
                              "--backend=unix:@b", "--backend=10.0.0.1:80"});
  EXPECT_THAT(Listens(config), ElementsAre(At(":1"), At("unix:/run/p")));
  EXPECT_THAT(ListenTexts(config), ElementsAre(":1", "unix:/run/p"));
  EXPECT_THAT(Backends(config), ElementsAre(At("10.0.0.1:80"), At("unix:@b"), At("10.0.0.1:80")));
}

TEST(ConfigTest, ANameStandsForItsAddressesOfOneFamily) {
  EXPECT_THAT(Backends(Good({"--backend=pair:80"})),
              ElementsAre(At("10.0.0.1:80"), At("10.0.0.2:80")));
  EXPECT_EQ(Good({"--backend=pair:80"}).routes.front().backends.front().text, "pair:80");
  EXPECT_THAT(Backends(Good({"--backend=localhost:80"})), ElementsAre(At("127.0.0.1:80")));
  EXPECT_THAT(Backends(Good({"--backend=six:80"})),
              ElementsAre(At("[2001:db8::1]:80"), At("[2001:db8::2]:80")));
  EXPECT_THAT(Listens(Good({"--mode=echo", "--listen=localhost:80"})),
              ElementsAre(At("127.0.0.1:80")));
}

TEST(ConfigTest, ReadsEveryFlag) {
  const Config config = Good({"--mode=proxy",
                              "--listen=[::1]:5",
                              "--backend=10.0.0.1:80",
                              "--max_conns=100000000",
                              "--backlog=1",
                              "--connect_timeout=1h",
                              "--idle_timeout=0",
                              "--half_close_timeout=1ms",
                              "--reset_linger=0",
                              "--keepalive_idle=1m30s",
                              "--buffer_memory=1TiB",
                              "--splice_memory=1MiB",
                              "--memory_budget=off",
                              "--workers=1024",
                              "--pin_cpus",
                              "--spin=40us",
                              "--stall_report=1s",
                              "--stack_size=20KiB",
                              "--drain_timeout=0s",
                              "--balance=maglev",
                              "--hash_balance_factor=125",
                              "--connect_retries=15",
                              "--max_queue=0",
                              "--queue_timeout=2s",
                              "--health=http",
                              "--health_interval=1m",
                              "--health_timeout=3s",
                              "--health_rise=4",
                              "--health_fall=5",
                              "--health_port=80",
                              "--health_path=/x",
                              "--health_host=a.b",
                              "--health_send=a b\\r\\x00",
                              "--health_expect=+PONG",
                              "--all_down=try",
                              "--on_down=close",
                              "--slow_start=1m",
                              "--log=syslog",
                              "--access_log=/var/log/a",
                              "--log_sessions=all",
                              "--access_log_format=json",
                              "--log_sample=100",
                              "--access_log_progress=1m",
                              "--source=10.0.0.3",
                              "--backend_keepalive_idle=2m",
                              "--user_timeout=1.5s",
                              "--congestion=bbr",
                              "--mark=4294967295",
                              "--rcvbuf=256MiB",
                              "--sndbuf=4KiB",
                              "--fastopen=9",
                              "--defer_accept=3s",
                              "--mptcp",
                              "--transparent",
                              "--accept_proxy=any",
                              "--trusted=10.0.0.0/8,::1",
                              "--handshake_timeout=4s",
                              "--send_proxy=v2",
                              "--send_proxy_tlvs=unique_id,crc32c",
                              "--allow=10.0.0.0/8",
                              "--deny=::2",
                              "--listener_max_conns=7",
                              "--listener_conn_rate=8",
                              "--source_max_conns=9",
                              "--source_conn_rate=10",
                              "--overload=reset",
                              "--bandwidth=2KiB",
                              "--route_bandwidth=1MiB",
                              "--max_conn_rate=11"});
  EXPECT_EQ(config.max_conns, 100'000'000);
  EXPECT_EQ(config.defaults.backlog, 1);
  EXPECT_EQ(config.defaults.connect_timeout, 1h);
  EXPECT_EQ(config.defaults.idle_timeout, 0s);
  EXPECT_EQ(config.defaults.half_close_timeout, 1ms);
  EXPECT_EQ(config.defaults.reset_linger, 0s);
  EXPECT_EQ(config.defaults.keepalive_idle, 90s);
  EXPECT_EQ(config.buffer_memory, size_t{1} << 40);
  EXPECT_EQ(config.splice_memory, size_t{1} << 20);
  EXPECT_EQ(config.memory_budget, kNoMemoryBudget);
  EXPECT_EQ(config.workers, 1024);
  EXPECT_TRUE(config.pin_cpus);
  EXPECT_EQ(config.spin, 40us);
  EXPECT_EQ(config.stall_report, 1s);
  EXPECT_EQ(config.stack_size, 20u << 10);
  EXPECT_EQ(config.drain_timeout, 0s);
  const RouteOptions& options = config.defaults;
  EXPECT_EQ(options.balance, Balance::kMaglev);
  EXPECT_EQ(options.hash_balance_factor, 125);
  EXPECT_EQ(options.connect_retries, 15);
  EXPECT_EQ(options.max_queue, 0);
  EXPECT_EQ(options.queue_timeout, 2s);
  EXPECT_EQ(options.health, Health::kHttp);
  EXPECT_EQ(options.health_interval, 1min);
  EXPECT_EQ(options.health_timeout, 3s);
  EXPECT_EQ(options.health_rise, 4);
  EXPECT_EQ(options.health_fall, 5);
  EXPECT_EQ(options.health_port, 80);
  EXPECT_EQ(options.health_path, "/x");
  EXPECT_EQ(options.health_host, "a.b");
  EXPECT_EQ(options.health_send, std::string("a b\r\0", 5));
  EXPECT_EQ(options.health_expect, "+PONG");
  EXPECT_EQ(options.all_down, AllDown::kTry);
  EXPECT_EQ(options.on_down, OnDown::kClose);
  EXPECT_EQ(options.slow_start, 1min);
  EXPECT_EQ(options.log_sessions, LogSessions::kAll);
  EXPECT_EQ(options.log_sample, 100);
  EXPECT_EQ(config.log, "syslog");
  EXPECT_EQ(config.access_log, "/var/log/a");
  EXPECT_EQ(config.access_log_format, AccessFormat::kJson);
  EXPECT_EQ(config.access_log_progress, 1min);
  EXPECT_THAT(options.source, ElementsAre(At("10.0.0.3:0")));
  EXPECT_EQ(options.backend_keepalive_idle, 2min);
  EXPECT_EQ(options.user_timeout, 1500ms);
  EXPECT_EQ(options.congestion, "bbr");
  EXPECT_EQ(options.mark, 4'294'967'295);
  EXPECT_EQ(options.rcvbuf, size_t{256} << 20);
  EXPECT_EQ(options.sndbuf, size_t{4} << 10);
  EXPECT_EQ(options.fastopen, 9);
  EXPECT_EQ(options.defer_accept, 3s);
  EXPECT_TRUE(options.mptcp);
  EXPECT_TRUE(options.transparent);
  EXPECT_FALSE(options.source_is_client);
  EXPECT_EQ(options.accept_proxy, AcceptProxy::kAny);
  EXPECT_EQ(options.trusted.text, "10.0.0.0/8,::1/128");
  EXPECT_EQ(options.allow.text, "10.0.0.0/8");
  EXPECT_EQ(options.deny.text, "::2/128");
  EXPECT_EQ(options.listener_max_conns, 7);
  EXPECT_EQ(options.listener_conn_rate, 8);
  EXPECT_EQ(options.source_max_conns, 9);
  EXPECT_EQ(options.source_conn_rate, 10);
  EXPECT_EQ(options.overload, Overload::kReset);
  EXPECT_EQ(options.bandwidth, size_t{2} << 10);
  EXPECT_EQ(options.route_bandwidth, size_t{1} << 20);
  EXPECT_EQ(config.max_conn_rate, 11);
  EXPECT_EQ(options.handshake_timeout, 4s);
  EXPECT_EQ(options.send_proxy, SendProxy::kV2);
  EXPECT_EQ(options.send_proxy_tlvs, kProxyTlvChecksum | kProxyTlvUniqueId);
}

TEST(ConfigTest, TheLastOfOneFlagWins) {
  EXPECT_EQ(Good({"--workers=1", "--workers=2"}).workers, 2);
  EXPECT_FALSE(Good({"--pin_cpus", "--nopin_cpus"}).pin_cpus);
  EXPECT_EQ(Good({"--mode=proxy", "--mode=echo"}).routes.front().mode, Mode::kEcho);
  EXPECT_EQ(Good({"--mode=discard"}).routes.front().mode, Mode::kDiscard);
}

TEST(ConfigTest, ParsingStartsAnewEachTime) {
  EXPECT_EQ(Good({"--workers=7"}).workers, 7);
  EXPECT_EQ(Good({}).workers, 0);
}

TEST(ConfigTest, GflagsHoldsTheEffectiveValues) {
  const auto value = [](const char* name) {
    return gflags::GetCommandLineFlagInfoOrDie(name).current_value;
  };
  Good({"--listen=:1", "--listen=:2", "--backend=pair:80", "--idle_timeout=90s", "--workers=3",
        "--pin_cpus"});
  EXPECT_EQ(value("listen"), ":1,:2");
  EXPECT_EQ(value("backend"), "pair:80");
  EXPECT_EQ(value("idle_timeout"), "1m30s");
  EXPECT_EQ(value("workers"), "3");
  EXPECT_EQ(value("pin_cpus"), "true");
  Good({});
  EXPECT_EQ(value("listen"), "127.0.0.1:8080");
  EXPECT_EQ(value("backend"), "");
  EXPECT_EQ(value("workers"), "0");
}

TEST(ConfigTest, ABadValueNamesFlagValueAndProblem) {
  const std::pair<std::string, std::string> table[] = {
      {"--mode=tcp", "must be proxy, echo or discard"},
      {"--mode=", "must be proxy, echo or discard"},
      {"--max_conns=-1", "must be a whole number, 0 to 100000000"},
      {"--max_conns=100000001", "must be a whole number, 0 to 100000000"},
      {"--backlog=0", "must be a whole number, 1 to 1000000"},
      {"--backlog=4k", "must be a whole number, 1 to 1000000"},
      {"--connect_timeout=0", "must be 1ms to 1h"},
      {"--connect_timeout=61m", "must be 1ms to 1h"},
      {"--idle_timeout=5", "add a unit, for example 5s"},
      {"--idle_timeout=1us", "must be 0 or 1ms to 8760h"},
      {"--idle_timeout=-5s", "must not be negative"},
      {"--idle_timeout=", "needs a duration, for example 5s"},
      {"--half_close_timeout=9000h", "must be 0 or 1ms to 8760h"},
      {"--reset_linger=2m", "must be 0 to 1m"},
      {"--keepalive_idle=500ms", "must be 0 or 1s to 9h6m7s"},
      {"--keepalive_idle=1.5s", "must be a multiple of 1s"},
      {"--keepalive_idle=10h", "must be 0 or 1s to 9h6m7s"},
      {"--balance=roundrobin", "must be rr, leastconn, random2, source, maglev or first"},
      {"--hash_balance_factor=100", "must be 0 or a whole number, 101 to 10000"},
      {"--connect_retries=16", "must be a whole number, 0 to 15"},
      {"--health_path=healthz", "a path begins with /"},
      {"--health_path=/a\\sb", "holds a blank or a control character"},
      {"--health_host=a\\r\\nb", "holds a blank or a control character"},
      {"--health_send=\\q", R"(after a backslash comes r, n, t, s, \ or xHH)"},
      {"--health_send=\\x1", R"(after a backslash comes r, n, t, s, \ or xHH)"},
      {"--slow_start=1ms", "must be 0 or 100ms to 1h"},
      {"--source=10.0.0.3,", "nothing stands behind the last comma"},
      {"--source=10.0.0", "10.0.0: not a numeric address"},
      {"--source=0.0.0.0", "0.0.0.0: an address of this machine, not all"},
      {"--source=::1", "no backend can be connected to from ::1"},
      {"--backend_keepalive_idle=1ms", "must be 0 or 1s to 9h6m7s"},
      {"--user_timeout=1us", "must be 0 or 1ms to 24h"},
      {"--user_timeout=1500us", "must be a multiple of 1ms"},
      {"--congestion=a_name_that_is_too_long", "has more than 15 bytes"},
      {"--congestion=a\\sb", "holds a blank or a control character"},
      {"--mark=4294967296", "must be a whole number, 0 to 4294967295"},
      {"--rcvbuf=1KiB", "must be 0 or 4KiB to 256MiB"},
      {"--fastopen=-1", "must be a whole number, 0 to 1000000"},
      {"--defer_accept=500ms", "must be 0 or 1s to 1h"},
      {"--mptcp=on", "must be true or false"},
      {"--transparent=on", "must be true or false"},
      {"--accept_proxy=v3", "must be off, v1, v2 or any"},
      {"--trusted=10.0.0.0/8,10.0.0.1/8",
       "10.0.0.1/8: has bits beyond its prefix; widen the prefix or clear them"},
      {"--deny=::1,", "\"\": not an address; write for example 10.0.0.0/8 or ::1"},
      {"--allow=@/nowhere/list", "@/nowhere/list: No such file or directory"},
      {"--overload=wait", "must be pause or reset"},
      {"--source_max_conns=1000001", "must be a whole number, 0 to 1000000"},
      {"--handshake_timeout=0", "must be 1ms to 1h"},
      {"--send_proxy=any", "must be off, v1 or v2"},
      {"--send_proxy_tlvs=crc32c,alpn", "must be crc32c, unique_id or received"},
      {"--buffer_memory=64", "add a unit, for example 64KiB"},
      {"--buffer_memory=1KiB", "must be 64KiB to 1TiB"},
      {"--buffer_memory=2TiB", "must be 64KiB to 1TiB"},
      {"--splice_memory=511KiB", "must be 0 or 512KiB to 1TiB"},
      {"--splice_memory=2TiB", "must be 0 or 512KiB to 1TiB"},
      {"--memory_budget=0", "must be auto, off or 1MiB to 1TiB"},
      {"--memory_budget=on", "must be auto, off or 1MiB to 1TiB"},
      {"--memory_budget=1023KiB", "must be auto, off or 1MiB to 1TiB"},
      {"--workers=1025", "must be a whole number, 0 to 1024"},
      {"--workers=0x4", "must be a whole number, 0 to 1024"},
      {"--workers= 4", "must be a whole number, 0 to 1024"},
      {"--workers=", "must be a whole number, 0 to 1024"},
      {"--workers=18446744073709551617", "must be a whole number, 0 to 1024"},
      {"--workers=000000000000000000001", "must be a whole number, 0 to 1024"},
      {"--log=access", "must be off, stdout, stderr, syslog or a path with a /"},
      {"--access_log=", "must be off, stdout, stderr, syslog or a path with a /"},
      {"--access_log=/a\\x00b", "holds a control character"},
      {"--access_log_format=csv", "must be text or json"},
      {"--access_log_progress=100ms", "must be 0 or 1s to 24h"},
      {"--log_sessions=start", "must be off, end or all"},
      {"--log_sample=0", "must be a whole number, 1 to 1000000"},
      {"--pin_cpus=2", "must be true or false"},
      {"--spin=1s", "must be 0 to 1ms"},
      {"--stack_size=8KiB", "must be 16KiB to 16MiB"},
      {"--stack_size=65537B", "must be a multiple of 4KiB"},
      {"--drain_timeout=25h", "must be 0 to 24h"},
      {"--listen=", "address is empty"},
      {"--listen=127.0.0.1:99999", "port must be 0-65535"},
      {"--listen=127.0.0.1:80 ", "address holds a space"},
      {"--listen=unix:/a ", "address ends in a space"},
      {"--listen=:80,:81", "one address per flag; repeat --listen"},
      {"--backend=10.0.0.1", "port is missing; write HOST:PORT or :PORT"},
      {"--listen=nosuch.invalid:80", "cannot resolve: Name or service not known"},
      {"--backend=srv:", "port must be 0-65535"},
      {"--backend=srv:_db._tcp.example.com:5432", "not a host name"},
      {"--dns_servers=ns.example.com",
       "must be addresses such as 10.0.0.1, ::1 or 10.0.0.1:5353, with commas between"},
      {"--dns_servers=10.0.0.1,fe80::1%lo",
       "must be addresses such as 10.0.0.1, ::1 or 10.0.0.1:5353, with commas between"},
      {"--dns_servers=[fe80::1%lo]:53",
       "must be addresses such as 10.0.0.1, ::1 or 10.0.0.1:5353, with commas between"},
      {"--dns_servers=10.0.0.1,",
       "must be addresses such as 10.0.0.1, ::1 or 10.0.0.1:5353, with commas between"},
      {"--dns_servers=1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5,1.1.1.6,1.1.1.7,1.1.1.8,1.1.1.9",
       "more than 8 name servers"},
      {"--dns_timeout=1ms", "must be 10ms to 1m"},
      {"--dns_tries=0", "must be a whole number, 1 to 10"},
      {"--dns_ttl_min=0", "must be 10ms to 1h"},
      {"--dns_ttl_max=25h", "must be 10ms to 24h"},
      {"--dns_ttl_max=500ms", "dns_ttl_min is above dns_ttl_max"},
      {"--dns_ttl_min=31s", "dns_ttl_min is above dns_ttl_max"},
      {"--dns_family=ipv5", "must be auto, any, ipv4 or ipv6"},
      {"--backend=10.0.0.1:80,10.0.0.2:80", "one address per flag; repeat --backend"},
      {"--backend=10.0.0.1:0", "a backend's port must be 1-65535"},
      {"--backend=original_dst",
       "original_dst stands alone, in a route: to=original_dst allow_dst=BLOCKS"},
      {"--backend=:80", "name the host to connect to, such as 127.0.0.1"},
      {"--backend=0.0.0.0:80", "name the host to connect to, such as 127.0.0.1"},
  };
  for (const auto& [flag, problem] : table) {
    EXPECT_EQ(BadProxy(flag), absl::StrCat(flag, ": ", problem));
  }
}

TEST(ConfigTest, TheSourceMayBeTheClients) {
  const Config config = Good({"--listen=:80", "--backend=10.0.0.1:80", "--source=client"});
  EXPECT_TRUE(config.routes.front().options.source_is_client);
  EXPECT_THAT(ToFlags(config), Contains("--source=client"));
}

TEST(ConfigTest, AnAddressWithControlCharactersIsNamedOnce) {
  EXPECT_EQ(BadProxy("--listen=a\tb:80"), "--listen=a?b:80: address holds a control character");
  EXPECT_EQ(BadProxy("--listen=unix:/a\n"), "--listen=unix:/a?: address holds a control character");
}

TEST(ConfigTest, UnknownFlagsAreErrors) {
  EXPECT_EQ(Bad({"--frobnicate"}), "--frobnicate: unknown flag; --help lists all flags");
  EXPECT_EQ(Bad({"--idle-timout=5s"}), "--idle_timout: unknown flag; did you mean --idle_timeout?");
  EXPECT_EQ(Bad({"--fromenv=listen"}), "--fromenv: unknown flag; --help lists all flags");
  EXPECT_EQ(Bad({"start"}), "start: not a flag; every argument is one, such as --listen=:8080");
}

TEST(ConfigTest, EchoHasNoBackends) {
  EXPECT_EQ(Bad({"--backend=10.0.0.1:80", "--mode=echo"}),
            "--backend=10.0.0.1:80: --mode=echo has no backends; drop one of the two");
}

TEST(ConfigTest, AProxyNeedsABackend) {
  const std::string problem =
      ": no --backend to relay to; add --backend=HOST:PORT, or --mode=echo to answer itself";
  EXPECT_EQ(Bad({"--listen=:80"}), "--listen=:80" + problem);
  EXPECT_EQ(Bad({"--mode=proxy", "--listen=:80"}), "--listen=:80" + problem);
  EXPECT_EQ(Bad({"--mode=proxy"}), "--mode=proxy" + problem);
}

TEST(ConfigTest, OneAddressIsListenedOnOnce) {
  const std::string problem = ": an earlier address covers this one";
  const std::pair<std::string, std::string> clashes[] = {
      {"127.0.0.1:80", "127.0.0.1:80"},
      {":80", "*:80"},
      {":80", "0.0.0.0:80"},
      {"[::]:80", ":80"},
      {"unix:/a", "unix:/a"},
      {"localhost:80", "127.0.0.1:80"},
  };
  for (const auto& [first, second] : clashes) {
    EXPECT_EQ(Bad({"--mode=echo", "--listen=" + first, "--listen=" + second}),
              absl::StrCat("--listen=", second, problem));
  }
  const std::pair<std::string, std::string> compatible[] = {
      {"0.0.0.0:80", "[::]:80"},        {":0", ":0"},           {"127.0.0.1:80", "127.0.0.2:80"},
      {"127.0.0.1:80", "127.0.0.1:81"}, {"unix:/a", "unix:@a"},
  };
  for (const auto& [first, second] : compatible) {
    EXPECT_EQ(Good({"--mode=echo", "--listen=" + first, "--listen=" + second})
                  .routes.front()
                  .listen.size(),
              2u);
  }
}

TEST(ConfigTest, NameServersAreNeededForNamesThatAreNotInTheHostsFile) {
  const Config config = Good({"--backend=nosuch.invalid:80*2@backup/max=3", "--backend=pair:80"});
  const Backend& named = config.routes.front().backends[0];
  EXPECT_EQ(named.question, (Question{.srv = false, .name = "nosuch.invalid"}));
  EXPECT_EQ(named.port, 80);
  EXPECT_THAT(named.at, IsEmpty());
  EXPECT_FALSE(config.routes.front().backends[1].is_discovered());
  EXPECT_EQ(
      Good({"--backend=nosuch.invalid:80", "--dns_servers=10.0.0.1,[::1]:5353,::2"}).dns_servers,
      "10.0.0.1,[::1]:5353,::2");
}

TEST(ConfigTest, TheDaemonDoesNotRelayToItself) {
  const std::string problem = ": the route listens there: it would connect to itself";
  EXPECT_EQ(Bad({"--backend=127.0.0.1:8080"}), "--backend=127.0.0.1:8080" + problem);
  EXPECT_EQ(Bad({"--listen=:80", "--backend=localhost:80"}), "--backend=localhost:80" + problem);
  EXPECT_EQ(Bad({"--listen=:80", "--backend=[::1]:80"}), "--backend=[::1]:80" + problem);
  EXPECT_EQ(Bad({"--listen=unix:/a", "--backend=unix:/a"}), "--backend=unix:/a" + problem);
  Good({"--listen=[::]:80", "--backend=127.0.0.1:80"});
  Good({"--listen=:80", "--backend=10.0.0.1:80"});
}

TEST(ConfigTest, RoutesStandBesideTheShortestForm) {
  const Config config = Good({"--route=a listen=:1 to=pair:80", "--listen=:2", "--backend=pair:80",
                              "--route=b listen=:3 to=echo", "--idle_timeout=9s"});
  ASSERT_EQ(config.routes.size(), 3u);
  EXPECT_EQ(config.routes[0].name, "default");
  EXPECT_EQ(config.routes[1].name, "a");
  EXPECT_EQ(config.routes[2].name, "b");
  EXPECT_EQ(config.routes[1].options.idle_timeout, 9s);
  EXPECT_EQ(Good({"--route=a listen=:1 to=echo"}).routes.size(), 1u);
}

TEST(ConfigTest, ASourceOfTheFlagsFitsABackendOfAnyRoute) {
  const std::vector<std::string> routes = {"--route=a listen=:1 to=pair:80",
                                           "--route=b listen=:2 to=six:80", "--mode=echo",
                                           "--source=10.0.0.3,2001:db8::3"};
  EXPECT_EQ(Good(routes).routes.back().options.source.size(), 2u);
  EXPECT_EQ(Bad({routes[0], routes[3]}),
            "--source=10.0.0.3,2001:db8::3: no backend can be connected to from 2001:db8::3");
  Good({"--mode=echo", "--source=::1"});
}

TEST(ConfigTest, AnErrorOfARouteNamesItsFlagAndColumn) {
  EXPECT_EQ(Bad({"--route=a listn=:1 to=echo"}),
            "--route=a listn=:1 to=echo: column 3: listn: unknown key; did you mean listen?");
  EXPECT_EQ(Bad({"--listen=:1", "--mode=echo", "--route=default listen=:2 to=echo"}),
            "--route=default listen=:2 to=echo: column 1: an earlier route is called default too");
  EXPECT_EQ(Bad({"--listen=:1", "--mode=echo", "--route=a listen=:1 to=echo"}),
            "--route=a listen=:1 to=echo: column 10: no client gets here: all go to route default");
}

TEST(ConfigTest, CheckAndPrintConfigStartNothing) {
  std::ostringstream out;
  absl::StatusOr<ParseResult> result = Parse({"--check", "--backend=pair:80"}, out);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->action, ParseResult::Action::kExit);
  EXPECT_EQ(out.str(),
            "parkway: the configuration is good: 1 route, 1 address to listen on, 2 backends\n");
  out.str("");
  result = Parse({"--print_config", "--backend=pair:80", "--workers=3"}, out);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(out.str(), testing::StartsWith("--listen=127.0.0.1:8080\n--backend=pair:80\n"));
  EXPECT_THAT(out.str(), HasSubstr("\n--workers=3\n"));
  EXPECT_FALSE(Parse({"--check", "--workers=x"}, out).ok());
}

class ConfigFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = testing::TempDir() + "/config_test.flags";
    std::ofstream(path) << text;
    return path;
  }
};

TEST_F(ConfigFileTest, FlagsOfFileAndCommandLineAddUp) {
  const std::string file = Write("# sample\n--listen=:2\n--workers=2\n--backend=pair:80\n");
  const Config config = Good({"--listen=:1", "--workers=1", "--flagfile=" + file, "--listen=:3"});
  EXPECT_THAT(ListenTexts(config), ElementsAre(":1", ":2", ":3"));
  EXPECT_EQ(config.workers, 2);
  EXPECT_EQ(Good({"--flagfile=" + file, "--workers=3"}).workers, 3);
}

TEST_F(ConfigFileTest, BadValuesNameTheLine) {
  const std::string file = Write("\n--idle_timeout=5\n");
  EXPECT_EQ(Bad({"--flagfile=" + file}), file + ":2: --idle_timeout=5: add a unit, for example 5s");
  EXPECT_EQ(Bad({"--flagfile=" + Write("--listen=nosuch.invalid:80\n")}),
            file + ":1: --listen=nosuch.invalid:80: cannot resolve: Name or service not known");
  EXPECT_EQ(Bad({"--flagfile=" + Write("--workers=4 # of 8\n")}),
            file +
                ":1: --workers=4 # of 8: must be a whole number, 0 to 1024 (a comment needs a "
                "line of its own)");
}

TEST_F(ConfigFileTest, RoutesFilesAddUp) {
  const std::string routes = testing::TempDir() + "/config_test.routes";
  std::ofstream(routes) << "# mine\nb listen=:2 to=echo\n\nc listen=:3 \\\n  to=echo # end\n";
  const Config config = Good({"--routes_file=" + routes, "--route=a listen=:1 to=echo"});
  ASSERT_EQ(config.routes.size(), 3u);
  EXPECT_EQ(config.routes[0].name, "b");
  EXPECT_EQ(config.routes[1].name, "c");
  EXPECT_EQ(config.routes[2].name, "a");
  // Relative to the file that names it.
  EXPECT_EQ(Good({"--flagfile=" + Write("--routes_file=config_test.routes\n")}).routes.size(), 2u);
  std::ofstream(routes) << "b listen=:2 \\\n to=ecko\n";
  EXPECT_EQ(Bad({"--routes_file=" + routes}),
            routes + ":2: column 5: ecko: port is missing; write HOST:PORT or :PORT");
  EXPECT_EQ(Bad({"--routes_file=/nonexistent"}),
            "--routes_file=/nonexistent: No such file or directory");
  std::ofstream(routes) << "# nothing\n";
  EXPECT_EQ(Bad({"--routes_file=" + routes}), "--routes_file=" + routes + ": holds no route");
}

TEST_F(ConfigFileTest, PrintedFlagsReadBackToTheSameConfig) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {},
           {"--workers=3"},
           {"--mode=echo", "--listen=:1", "--listen=unix:/a b", "--idle_timeout=1.5s"},
           {"--backend=pair:80", "--backend=pair:80*3@backup", "--pin_cpus",
            "--buffer_memory=65537B", "--splice_memory=0", "--memory_budget=off"},
           {"--memory_budget=3MiB"},
           {"--route=a listen=:1 to=pair:80", "--idle_timeout=9s"},
           {"--route=default listen=:1 to=echo"},
           {"--route=default listen=:1 sni=a.test to=echo", "--route=b listen=:1 to=echo"},
           {"--route=default listen=:1 alpn=h2 to=echo", "--route=b listen=:1 to=echo"},
           {"--route=a listen=:1 to=echo", "--route=default listen=:2 to=echo"},
           {"--listen=:3", "--backend=unix:/a,b c@drain", "--backend=pair:80",
            "--route=a listen=:1,:2 from=10.0.0.0/8 to=pair:80*2@backup,six:80 backlog=7"}}) {
    const Config config = Good(arguments);
    std::string text;
    for (const std::string& line : ToFlags(config)) text += line + "\n";
    EXPECT_EQ(Good({"--flagfile=" + Write(text)}), config) << text;
  }
}

TEST(ConfigTest, HelpIsShortAndComplete) {
  for (const std::string question : {"--help", "-help", "-h"}) {
    std::ostringstream out;
    const absl::StatusOr<ParseResult> result = Parse({"--frobnicate", question}, out);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->action, ParseResult::Action::kExit);
    std::istringstream lines(out.str());
    int count = 0;
    for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), 100u) << line;
    EXPECT_LE(count, 108);
    for (const std::string topic : {"What it serves", "Of each route", "Limits", "Process"}) {
      EXPECT_THAT(out.str(), HasSubstr("\n" + topic));
    }
    EXPECT_THAT(out.str(), HasSubstr("--idle_timeout=DURATION (1h) "));
  }
}

TEST(ConfigTest, HelpExplainsEveryFlagAsItStandsInGflags) {
  std::ostringstream out;
  ASSERT_TRUE(Parse({"--help=all"}, out).ok());
  std::vector<gflags::CommandLineFlagInfo> flags;
  gflags::GetAllFlags(&flags);
  bool any = false;
  for (const gflags::CommandLineFlagInfo& flag : flags) {
    if (flag.filename.find("server/config.cc") == std::string::npos) continue;
    any = true;
    EXPECT_THAT(out.str(), HasSubstr("  --" + flag.name));
    EXPECT_THAT(out.str(), HasSubstr(flag.description.substr(0, 30)));
    // A flag outside the table of config.cc would be dead.
    EXPECT_THAT(Bad({"--" + flag.name + "=\\x"}), testing::Not(HasSubstr("unknown"))) << flag.name;
  }
  EXPECT_TRUE(any) << "none of gflags' flags come from config.cc";
}

TEST(ConfigTest, VersionIsOneLine) {
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result = Parse({"--version"}, out);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->action, ParseResult::Action::kExit);
  EXPECT_EQ(out.str(), "parkway " + std::string(kVersion) + "\n");
}

TEST(ConfigTest, AskingForSomethingElseThanHelpIsAnError) {
  EXPECT_EQ(Bad({"--help=listen"}), "--help: takes no such value");
  EXPECT_EQ(Bad({"--version=2"}), "--version: takes no such value");
}

TEST(ConfigTest, AnEmptyArgvIsATrialRunToo) {
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result =
      ParseCommandLine(0, nullptr, out, {&FakeResolve, &FakeResolve});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->config.embedded_backends);
}

}  // namespace
}  // namespace parkway
