// SPDX-License-Identifier: Apache-2.0
//
// Against dnsmasq, a real name server, and sockets that are none.
#include "server/dns_resolver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "netpoll/endpoint.h"
#include "netpoll/testing/fixture.h"
#include "sched/fibers.h"
#include "server/question.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

// A UDP socket on loopback; held, it answers nobody.
class SilentPort {
 public:
  SilentPort() : fd_(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const Endpoint any = *Endpoint::Parse("127.0.0.1:0");
    EXPECT_EQ(bind(fd_, any.data(), any.size()), 0);
    sockaddr_storage name;
    socklen_t size = sizeof name;
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&name), &size), 0);
    at_ = Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&name), size);
  }
  ~SilentPort() { Free(); }
  void Free() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  const Endpoint& at() const { return at_; }
  // Datagrams until now.
  int received() {
    char byte;
    while (recv(fd_, &byte, 1, MSG_DONTWAIT) >= 0) ++received_;
    return received_;
  }

 private:
  int fd_;
  Endpoint at_;
  int received_ = 0;
};

class Dnsmasq {
 public:
  explicit Dnsmasq(std::vector<std::string> records) {
    at_ = FreePort();
    std::vector<std::string> arguments = {"dnsmasq",
                                          "--keep-in-foreground",
                                          "--conf-file=/dev/null",
                                          "--no-resolv",
                                          "--no-hosts",
                                          "--bind-interfaces",
                                          "--local=/test/",
                                          "--user=",
                                          "--pid-file=",
                                          "--local-ttl=7",
                                          "--listen-address=127.0.0.1",
                                          "--port=" + std::to_string(at_.port())};
    arguments.insert(arguments.end(), records.begin(), records.end());
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::string path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    char* env[] = {path.data(), nullptr};
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    const int error =
        posix_spawn(&pid_, "/usr/sbin/dnsmasq", nullptr, &attributes, argv.data(), env);
    posix_spawnattr_destroy(&attributes);
    EXPECT_EQ(error, 0) << "Debian's dnsmasq-base is needed";
    AwaitTcp();
  }
  ~Dnsmasq() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::string at() const { return at_.ToString(); }

 private:
  // For TCP and UDP. Below those that the kernel gives to clients, of which a busy machine has
  // many.
  static Endpoint FreePort() {
    static int next = 10'000 + getpid() % 10'000;
    for (;;) {
      const Endpoint at = *Endpoint::Parse("127.0.0.1:" + std::to_string(next++));
      const auto is_free = [&](int type) {
        const int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
        const bool bound = bind(fd, at.data(), at.size()) == 0;
        close(fd);
        return bound;
      };
      if (is_free(SOCK_STREAM) && is_free(SOCK_DGRAM)) return at;
    }
  }

  // It listens on both at once.
  void AwaitTcp() const {
    for (int i = 0; i < 1000; ++i) {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const bool connected = connect(fd, at_.data(), at_.size()) == 0;
      close(fd);
      if (connected) return;
      usleep(10'000);  // tidy: another process
    }
    FAIL() << "dnsmasq does not listen";
  }

  Endpoint at_;
  pid_t pid_ = 0;
};

class DnsResolverTest : public netpoll::NetpollTest {
 protected:
  void SetUp() override {
    setenv("LOCALDOMAIN", "search.test", 1);
    NetpollTest::SetUp();
  }

  absl::StatusOr<NameAnswer> Lookup(const DnsResolver::Options& options, const Question& question) {
    DnsResolver resolver(options);
    absl::StatusOr<NameAnswer> answer = absl::UnknownError("");
    On(0, [&] { answer = resolver.Lookup(poller(), question, cancelled_); });
    return answer;
  }

  static DnsResolver::Options At(const std::string& servers, DnsFamily family = DnsFamily::kAuto) {
    return {.servers = servers, .timeout = 200ms, .tries = 2, .family = family};
  }

  static std::vector<std::string> TextsOf(const absl::StatusOr<NameAnswer>& answer) {
    std::vector<std::string> texts;
    if (!answer.ok()) return {std::string(answer.status().message())};
    for (const Found& found : answer->found) texts.push_back(found.at.ToString());
    return texts;
  }

  std::atomic<bool> cancelled_{false};
};

INSTANTIATE_TEST_SUITE_P(Workers, DnsResolverTest, testing::Values(1, 2));

TEST_P(DnsResolverTest, FindsAddressesWithTheirTtl) {
  Dnsmasq server({"--host-record=db.test,10.0.0.1", "--host-record=db.test,10.0.0.2"});
  const auto answer = Lookup(At(server.at()), {.name = "db.test"});
  EXPECT_THAT(TextsOf(answer), UnorderedElementsAre("10.0.0.1:0", "10.0.0.2:0"));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->ttl, 7s);
  EXPECT_EQ(answer->why_partial, "");
}

TEST_P(DnsResolverTest, FamiliesAreThoseThatAreWanted) {
  Dnsmasq server(
      {"--host-record=db.test,10.0.0.1,2001:db8::1", "--host-record=six.test,2001:db8::2"});
  const auto ask = [&](DnsFamily family, const std::string& name) {
    return TextsOf(Lookup(At(server.at(), family), {.name = name}));
  };
  EXPECT_THAT(ask(DnsFamily::kAuto, "db.test"), ElementsAre("10.0.0.1:0"));
  EXPECT_THAT(ask(DnsFamily::kAuto, "six.test"), ElementsAre("[2001:db8::2]:0"));
  EXPECT_THAT(ask(DnsFamily::kAny, "db.test"),
              UnorderedElementsAre("10.0.0.1:0", "[2001:db8::1]:0"));
  EXPECT_THAT(ask(DnsFamily::kIpv6, "db.test"), ElementsAre("[2001:db8::1]:0"));
  EXPECT_THAT(ask(DnsFamily::kIpv4, "six.test"), IsEmpty());
}

TEST_P(DnsResolverTest, FindsServices) {
  Dnsmasq server({"--host-record=a.test,10.0.0.1", "--host-record=b.test,10.0.0.2",
                  "--srv-host=_db._tcp.test,a.test,5432,1,30",
                  "--srv-host=_db._tcp.test,b.test,5433,2,10"});
  const auto answer = Lookup(At(server.at()), {.srv = true, .name = "_db._tcp.test"});
  EXPECT_THAT(TextsOf(answer), UnorderedElementsAre("10.0.0.1:5432", "10.0.0.2:5433"));
  ASSERT_TRUE(answer.ok());
  const Found& a = answer->found[answer->found[0].at.port() == 5432 ? 0 : 1];
  EXPECT_EQ(a.weight, 30);
  EXPECT_EQ(a.priority, 1);
}

TEST_P(DnsResolverTest, ANameThatThereIsNotIsAnAnswer) {
  Dnsmasq server({"--host-record=six.test,2001:db8::2"});
  for (const bool srv : {false, true}) {
    const auto answer = Lookup(At(server.at()), {.srv = srv, .name = "nobody.test"});
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_THAT(answer->found, IsEmpty());
    EXPECT_EQ(answer->why_none, "no such name");
  }
  const auto answer = Lookup(At(server.at(), DnsFamily::kIpv4), {.name = "six.test"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->why_none, "it has no addresses");
}

TEST_P(DnsResolverTest, ShortNamesAreLookedForInSearchDomains) {
  Dnsmasq server({"--host-record=db.search.test,10.0.0.1"});
  EXPECT_THAT(TextsOf(Lookup(At(server.at()), {.name = "db"})), ElementsAre("10.0.0.1:0"));
  EXPECT_THAT(TextsOf(Lookup(At(server.at()), {.name = "db.search.test."})),
              ElementsAre("10.0.0.1:0"));
}

// systemd-resolved writes "search ." where there are none.
TEST_P(DnsResolverTest, SearchDomainsThatAreNoneArePassedOver) {
  Dnsmasq server({"--host-record=db.search.test,10.0.0.1"});
  std::string long_domain;
  for (int i = 0; i < 126; ++i) long_domain += "a.";  // too long behind a name
  for (const std::string& domains :
       {std::string(". search.test"), std::string("search.test."), std::string(".. .search.test."),
        std::string("a..b search.test"), long_domain + " search.test"}) {
    setenv("LOCALDOMAIN", domains.c_str(), 1);
    EXPECT_THAT(TextsOf(Lookup(At(server.at()), {.name = "db"})), ElementsAre("10.0.0.1:0"))
        << domains;
    const auto none = Lookup(At(server.at()), {.srv = true, .name = "_db._tcp.nobody.test"});
    ASSERT_TRUE(none.ok()) << domains << ": " << none.status();
    EXPECT_EQ(none->why_none, "no such name");
  }
}

TEST_P(DnsResolverTest, ManyAddressesComeByTcp) {
  std::vector<std::string> records;
  records.reserve(500);
  for (int i = 0; i < 500; ++i) {
    records.push_back("--host-record=db.test,10.0." + std::to_string(i / 250) + "." +
                      std::to_string(i % 250));
  }
  Dnsmasq server(records);
  const auto answer = Lookup(At(server.at()), {.name = "db.test"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->found.size(), 500u);
}

// Addresses of `count` hosts h0.test, h1.test, ...
std::vector<std::string> HostsWithAddresses(int count, int addresses) {
  std::vector<std::string> records;
  for (int host = 0; host < count; ++host) {
    for (int i = 0; i < addresses; ++i) {
      records.push_back("--host-record=h" + std::to_string(host) + ".test,10." +
                        std::to_string(host) + "." + std::to_string(i / 250) + "." +
                        std::to_string(i % 250));
    }
  }
  return records;
}

TEST_P(DnsResolverTest, HostsOfAServiceHaveRoomForSoManyAddressesTogether) {
  std::vector<std::string> records = HostsWithAddresses(9, 500);
  for (int host = 0; host < 9; ++host) {
    records.push_back("--srv-host=_db._tcp.test,h" + std::to_string(host) + ".test,80");
  }
  Dnsmasq server(records);
  const auto answer = Lookup({.servers = server.at()}, {.srv = true, .name = "_db._tcp.test"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->found.size(), DnsResolver::kAddressesMax);
  EXPECT_THAT(answer->why_partial, EndsWith(".test: too many addresses"));
}

TEST_P(DnsResolverTest, AHostAtManyPortsHasNoMoreRoom) {
  std::vector<std::string> records = HostsWithAddresses(1, 500);
  for (int port = 1; port <= 9; ++port) {
    records.push_back("--srv-host=_db._tcp.test,h0.test," + std::to_string(port));
  }
  Dnsmasq server(records);
  const auto answer = Lookup({.servers = server.at()}, {.srv = true, .name = "_db._tcp.test"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->found.size(), DnsResolver::kAddressesMax);
  EXPECT_EQ(answer->why_partial, "h0.test: too many addresses");
}

TEST_P(DnsResolverTest, OfAServiceWhatCannotBeLookedUpIsNamed) {
  SilentPort silent;
  const std::string forwarder = "127.0.0.1#" + std::to_string(silent.at().port());
  Dnsmasq server({"--host-record=a.test,10.0.0.1", "--server=/silent.invalid/" + forwarder,
                  "--srv-host=_db._tcp.test,a.test,80",
                  "--srv-host=_db._tcp.test,b.silent.invalid,80"});
  const auto answer = Lookup(At(server.at()), {.srv = true, .name = "_db._tcp.test"});
  EXPECT_THAT(TextsOf(answer), ElementsAre("10.0.0.1:80"));
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->why_partial, "b.silent.invalid: no name server answers in time");
}

TEST_P(DnsResolverTest, SilenceIsAnErrorInTimeAndTheNextServerIsAsked) {
  SilentPort silent;
  const sched::Deadline begun = Now();
  EXPECT_THAT(TextsOf(Lookup(At(silent.at().ToString()), {.name = "db.test."})),
              ElementsAre("no name server answers in time"));
  EXPECT_GE(Now() - begun, 500ms);  // 200ms, and twice as long
  EXPECT_LT(Now() - begun, 600ms + netpoll::kAtOnce);
  Dnsmasq server({"--host-record=db.test,10.0.0.1"});
  EXPECT_THAT(TextsOf(Lookup(At(silent.at().ToString() + "," + server.at()), {.name = "db.test"})),
              ElementsAre("10.0.0.1:0"));
}

TEST_P(DnsResolverTest, AClosedPortIsAnError) {
  SilentPort closed;
  closed.Free();
  const auto answer = Lookup(At(closed.at().ToString()), {.name = "db.test."});
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
}

TEST_P(DnsResolverTest, CancellingEndsALookupSoon) {
  SilentPort silent;
  DnsResolver resolver({.servers = silent.at().ToString(), .timeout = 10s, .tries = 3});
  absl::Status status;
  Go(0, [&] { status = resolver.Lookup(poller(), {.name = "db.test."}, cancelled_).status(); });
  AwaitIdle();
  const sched::Deadline begun = Now();
  cancelled_ = true;
  Join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_LT(Now() - begun, netpoll::kAtOnce);
}

TEST_P(DnsResolverTest, CancellingEndsALookupWithoutMoreQuestions) {
  SilentPort silent;
  const std::string forwarder = "127.0.0.1#" + std::to_string(silent.at().port());
  std::vector<std::string> records = {"--host-record=db.test,10.0.0.1",
                                      "--server=/silent.invalid/" + forwarder};
  for (int i = 0; i < 3 * DnsResolver::kQueriesMax; ++i) {
    records.push_back("--srv-host=_db._tcp.test,h" + std::to_string(i) + ".silent.invalid,80");
  }
  Dnsmasq server(records);
  DnsResolver resolver({.servers = server.at(), .timeout = 10s, .family = DnsFamily::kAny});
  absl::Status status;
  Go(0, [&] {
    status = resolver.Lookup(poller(), {.srv = true, .name = "_db._tcp.test"}, cancelled_).status();
  });
  AwaitThat("as many are asked for as may be",
            [&] { return silent.received() == DnsResolver::kQueriesMax; });
  cancelled_ = true;
  Join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  // What came before this one has been passed on when this one is answered.
  cancelled_ = false;
  EXPECT_THAT(TextsOf(Lookup(At(server.at()), {.name = "db.test"})), ElementsAre("10.0.0.1:0"));
  EXPECT_EQ(silent.received(), DnsResolver::kQueriesMax);
}

TEST_P(DnsResolverTest, ManyLookupsAtATimeAllEnd) {
  constexpr int kCount = 3 * kLookupsMax;
  Dnsmasq server({"--host-record=db.test,10.0.0.1"});
  DnsResolver resolver(At(server.at()));
  std::atomic<int> found{0};
  for (int i = 0; i < kCount; ++i) {
    Go(i % workers(), [&] {
      const auto answer = resolver.Lookup(poller(), {.name = "db.test"}, cancelled_);
      if (answer.ok()) found += static_cast<int>(answer->found.size());
    });
  }
  Join();
  EXPECT_EQ(found.load(), kCount);
}

}  // namespace
}  // namespace parkway
