// SPDX-License-Identifier: Apache-2.0
#include "netpoll/endpoint.h"

#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace netpoll {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Endpoint MustParse(std::string_view text) {
  absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  return endpoint.ok() ? *endpoint : Endpoint();
}

TEST(EndpointTest, ParsesIpv4) {
  const Endpoint endpoint = MustParse("127.0.0.1:80");
  EXPECT_EQ(endpoint.family(), AF_INET);
  EXPECT_EQ(endpoint.port(), 80);
  EXPECT_EQ(endpoint.size(), sizeof(sockaddr_in));
  EXPECT_EQ(reinterpret_cast<const sockaddr_in*>(endpoint.data())->sin_addr.s_addr,
            htonl(INADDR_LOOPBACK));
  EXPECT_TRUE(endpoint.is_loopback());
  EXPECT_FALSE(endpoint.is_any());
  EXPECT_FALSE(endpoint.dual_stack());
  EXPECT_FALSE(endpoint.is_unix());
}

TEST(EndpointTest, ParsesIpv6) {
  const Endpoint endpoint = MustParse("[::1]:65535");
  EXPECT_EQ(endpoint.family(), AF_INET6);
  EXPECT_EQ(endpoint.port(), 65535);
  EXPECT_EQ(endpoint.size(), sizeof(sockaddr_in6));
  EXPECT_TRUE(endpoint.is_loopback());
}

TEST(EndpointTest, EmptyHostAndStarAreBothFamilies) {
  for (const std::string_view text : {":8080", "*:8080"}) {
    const Endpoint endpoint = MustParse(text);
    EXPECT_EQ(endpoint.family(), AF_INET6);
    EXPECT_EQ(endpoint.port(), 8080);
    EXPECT_TRUE(endpoint.is_any());
    EXPECT_TRUE(endpoint.dual_stack());
    EXPECT_EQ(endpoint.ToString(), ":8080");
  }
}

TEST(EndpointTest, WildcardOfOneFamilyIsNotDualStack) {
  EXPECT_TRUE(MustParse("[::]:80").is_any());
  EXPECT_FALSE(MustParse("[::]:80").dual_stack());
  EXPECT_TRUE(MustParse("0.0.0.0:80").is_any());
  EXPECT_FALSE(MustParse("0.0.0.0:80").dual_stack());
  EXPECT_FALSE(MustParse("[::]:80") == MustParse(":80"));
}

TEST(EndpointTest, LinkLocalCarriesItsInterface) {
  const Endpoint endpoint = MustParse("[fe80::1%lo]:80");
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(endpoint.data());
  EXPECT_NE(in6->sin6_scope_id, 0u);
  EXPECT_EQ(endpoint.ToString(), "[fe80::1%lo]:80");
  EXPECT_EQ(MustParse("[fe80::1%" + std::to_string(in6->sin6_scope_id) + "]:80"), endpoint);
}

TEST(EndpointTest, InterfaceWithoutANamePrintsItsNumber) {
  EXPECT_EQ(MustParse("[fe80::1%4000000000]:80").ToString(), "[fe80::1%4000000000]:80");
}

TEST(EndpointTest, ParsesUnixPathAndAbstractName) {
  const Endpoint path = MustParse("unix:/run/a b.sock");
  EXPECT_TRUE(path.is_unix());
  EXPECT_EQ(path.port(), 0);
  const auto* un = reinterpret_cast<const sockaddr_un*>(path.data());
  EXPECT_STREQ(un->sun_path, "/run/a b.sock");
  EXPECT_EQ(path.size(), offsetof(sockaddr_un, sun_path) + strlen("/run/a b.sock") + 1);

  // The length of an abstract name is part of it: a trailing NUL would make another name.
  const Endpoint abstract = MustParse("unix:@parkway");
  un = reinterpret_cast<const sockaddr_un*>(abstract.data());
  EXPECT_EQ(un->sun_path[0], '\0');
  EXPECT_EQ(abstract.size(), offsetof(sockaddr_un, sun_path) + strlen("@parkway"));
}

TEST(EndpointTest, PrintsWhatItParsed) {
  const std::string longest_path = "unix:/" + std::string(106, 'p');
  const std::string longest_name = "unix:@" + std::string(106, 'n');
  for (const std::string& text :
       {std::string("127.0.0.1:0"), std::string("[2001:db8::1]:443"), std::string(":0"),
        std::string("[::]:1"), std::string("[::ffff:10.0.0.1]:2"), std::string("unix:/run/x"),
        std::string("unix:relative"), std::string("unix:@name"), longest_path, longest_name}) {
    EXPECT_EQ(MustParse(text).ToString(), text);
    EXPECT_EQ(Endpoint::FromSockaddr(MustParse(text).data(), MustParse(text).size()).size(),
              MustParse(text).size());
  }
}

struct BadText {
  std::string text;
  std::string message;
};

class BadEndpointTest : public testing::TestWithParam<BadText> {};

TEST_P(BadEndpointTest, NamesTheTextAndTheProblem) {
  for (const absl::Status& status :
       {Endpoint::Parse(GetParam().text).status(), Endpoint::Resolve(GetParam().text).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()), GetParam().message);
  }
}

const std::string kPortMissing = "port is missing; write HOST:PORT or :PORT";

INSTANTIATE_TEST_SUITE_P(
    Table, BadEndpointTest,
    testing::Values(
        BadText{"", "\"\": address is empty"},                                            //
        BadText{"127.0.0.1", "127.0.0.1: " + kPortMissing},                               //
        BadText{"8080", "8080: " + kPortMissing},                                         //
        BadText{"127.0.0.1:", "127.0.0.1:: port must be 0-65535"},                        //
        BadText{":", ":: port must be 0-65535"},                                          //
        BadText{"127.0.0.1:65536", "127.0.0.1:65536: port must be 0-65535"},              //
        BadText{"127.0.0.1:99999", "127.0.0.1:99999: port must be 0-65535"},              //
        BadText{":18446744073709551617", ":18446744073709551617: port must be 0-65535"},  //
        BadText{"127.0.0.1:-1", "127.0.0.1:-1: port must be 0-65535"},                    //
        BadText{"127.0.0.1:+1", "127.0.0.1:+1: port must be 0-65535"},                    //
        BadText{"127.0.0.1:http", "127.0.0.1:http: port must be 0-65535"},                //
        BadText{"127.0.0.1:0x50", "127.0.0.1:0x50: port must be 0-65535"},                //
        BadText{"[::1:80", "[::1:80: the bracket is not closed"},                         //
        BadText{"[::1]80", "[::1]80: port is missing; write it behind the bracket, as in [::1]:80"},
        BadText{"[::1]", "[::1]: port is missing; write it behind the bracket, as in [::1]:80"},
        BadText{"[]:80", "[]:80: not an IPv6 address"},                    //
        BadText{"[127.0.0.1]:80", "[127.0.0.1]:80: not an IPv6 address"},  //
        BadText{"[::1]:x", "[::1]:x: port must be 0-65535"},               //
        BadText{"::1:80", "::1:80: an IPv6 address needs brackets, as in [::1]:80"},
        BadText{"fe80::1", "fe80::1: an IPv6 address needs brackets, as in [::1]:80"},
        BadText{"[fe80::1]:80",
                "[fe80::1]:80: a link-local address needs its interface, as in [fe80::1%eth0]:80"},
        BadText{"[fe80::1%nosuch]:80", "[fe80::1%nosuch]:80: no interface is called \"nosuch\""},
        BadText{"[fe80::1%]:80", "[fe80::1%]:80: no interface is called \"\""},
        BadText{"[::1%lo]:80", "[::1%lo]:80: only a link-local address has an interface"},
        BadText{" 127.0.0.1:80", " 127.0.0.1:80: address holds a space"},  //
        BadText{"127.0.0.1:80 ", "127.0.0.1:80 : address holds a space"},  //
        BadText{"127.0.0.1\t:80", "127.0.0.1\\x09:80: address holds a control character"},
        BadText{std::string("127.0.0.1:80\0", 13),
                "127.0.0.1:80\\x00: address holds a control character"},
        BadText{"unix:", "unix:: name is missing; write unix:/path or unix:@name"},
        BadText{"unix:@", "unix:@: name is missing; write unix:/path or unix:@name"},
        BadText{std::string("unix:/a\0b", 9), "unix:/a\\x00b: path holds a control character"},
        BadText{"unix:/" + std::string(107, 'p'),
                "unix:/" + std::string(107, 'p') + ": path is longer than 107 bytes"}));

TEST(EndpointTest, AnAddressAloneHasPortZero) {
  for (const char* text : {"127.0.0.1", "::1", "2001:db8::1"}) {
    const absl::StatusOr<Endpoint> address = Endpoint::ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->port(), 0);
    EXPECT_EQ(address->AddressToString(), text);
  }
  EXPECT_EQ(Endpoint::ParseAddress("fe80::1%lo")->AddressToString(), "fe80::1%lo");
  for (const char* text :
       {"", "127.0.0.1:80", "[::1]", "127.1", "localhost", "unix:/a", "::1%lo"}) {
    EXPECT_FALSE(Endpoint::ParseAddress(text).ok()) << text;
  }
}

TEST(EndpointTest, NumericFormsOfOldAreRefused) {
  for (const std::string_view text : {"127.1:80", "1:80", "0x7f000001:80", "127.0.0.01:80",
                                      "1.2.3.4.5:80", "256.0.0.1:80", "a.b.0x7f:80"}) {
    EXPECT_FALSE(Endpoint::Parse(text).ok()) << text;
    EXPECT_EQ(std::string(Endpoint::Resolve(text).status().message()),
              std::string(text) + ": not an IPv4 address");
  }
}

TEST(EndpointTest, ParseTakesNoNames) {
  EXPECT_EQ(std::string(Endpoint::Parse("localhost:80").status().message()),
            "localhost:80: not a numeric address");
}

TEST(EndpointTest, ResolvesNumericFormsToThemselves) {
  for (const std::string_view text : {"127.0.0.1:80", "[::1]:80", ":80", "unix:@x"}) {
    const absl::StatusOr<std::vector<Endpoint>> endpoints = Endpoint::Resolve(text);
    ASSERT_TRUE(endpoints.ok()) << endpoints.status();
    EXPECT_THAT(*endpoints, testing::ElementsAre(MustParse(text)));
  }
}

TEST(EndpointTest, ResolvesLocalhostToLoopbackWithThePort) {
  const absl::StatusOr<std::vector<Endpoint>> endpoints = Endpoint::Resolve("localhost:6379");
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  ASSERT_FALSE(endpoints->empty());
  for (const Endpoint& endpoint : *endpoints) {
    EXPECT_TRUE(endpoint.is_loopback()) << endpoint.ToString();
    EXPECT_EQ(endpoint.port(), 6379);
  }
}

TEST(EndpointTest, UnresolvableNameIsNamed) {
  // A label of 64 letters cannot exist, so no name server is asked.
  const std::string text = std::string(64, 'a') + ".invalid:80";
  const absl::Status status = Endpoint::Resolve(text).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), StartsWith(text + ": cannot resolve: "));
}

TEST(EndpointTest, WhatIsNoHostNameIsNotLookedUp) {
  for (const std::string& text :
       {std::string("a/b:80"), std::string("tcp,x:80"), std::string(254, 'h') + ":80"}) {
    EXPECT_EQ(std::string(Endpoint::Resolve(text).status().message()), text + ": not a host name");
  }
}

TEST(EndpointTest, FromSockaddrIgnoresWhatDoesNotIdentify) {
  sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_addr = in6addr_loopback;
  in6.sin6_port = htons(80);
  in6.sin6_flowinfo = 7;
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&in6), sizeof(in6)),
            MustParse("[::1]:80"));
}

TEST(EndpointTest, FromSockaddrOfTheKernel) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(fd, 0);
  sockaddr_storage address;
  socklen_t size = sizeof(address);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), size).ToString(),
            "unix:(unnamed)");

  // Nobody else's: pids start anew in every sandbox.
  const Endpoint name =
      MustParse("unix:@parkway-endpoint-test-" + std::to_string(std::random_device()()));
  ASSERT_EQ(bind(fd, name.data(), name.size()), 0);
  size = sizeof(address);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), size), name);
  close(fd);
}

TEST(EndpointTest, FromSockaddrOfCutOrUnknownAddressIsEmpty) {
  sockaddr_storage address = {};
  address.ss_family = AF_INET;
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), 4), Endpoint());
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), 0), Endpoint());
  address.ss_family = AF_NETLINK;
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&address), sizeof(address)),
            Endpoint());
  EXPECT_EQ(Endpoint().ToString(), "(no address)");
  EXPECT_EQ(Endpoint().family(), AF_UNSPEC);
}

TEST(EndpointTest, APeersUnixNameCannotForgeALogLine) {
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, "\0a\nb", 4);
  const socklen_t size = offsetof(sockaddr_un, sun_path) + 4;
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&un), size).ToString(),
            "unix:@a\\x0ab");
}

TEST(EndpointTest, FromSockaddrKeepsAUnixPathWithoutRoomForItsNul) {
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  std::memset(un.sun_path, 'p', sizeof(un.sun_path));
  const Endpoint endpoint =
      Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&un), sizeof(un) + 1);
  EXPECT_EQ(endpoint.ToString(), "unix:" + std::string(sizeof(un.sun_path), 'p'));
  EXPECT_EQ(endpoint.size(), sizeof(un));
}

TEST(EndpointTest, WithPortKeepsTheRest) {
  EXPECT_EQ(MustParse("127.0.0.1:0").WithPort(9).ToString(), "127.0.0.1:9");
  EXPECT_EQ(MustParse("[::1]:0").WithPort(9).ToString(), "[::1]:9");
  EXPECT_EQ(MustParse(":0").WithPort(9), MustParse("*:9"));
}

TEST(EndpointTest, DifferentAddressesDiffer) {
  EXPECT_FALSE(MustParse("127.0.0.1:1") == MustParse("127.0.0.1:2"));
  EXPECT_FALSE(MustParse("127.0.0.1:1") == MustParse("127.0.0.2:1"));
  EXPECT_FALSE(MustParse("[::ffff:127.0.0.1]:1") == MustParse("127.0.0.1:1"));
  EXPECT_FALSE(MustParse("unix:/a") == MustParse("unix:@a"));
  EXPECT_FALSE(MustParse("unix:/a") == MustParse("unix:/ab"));
}

// Random strings over the grammar's own letters: whatever is accepted must survive printing and
// parsing.
TEST(EndpointTest, WhateverParsesPrintsAndParsesAgain) {
  const uint32_t seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string> pieces = {
      "127", ".", "0",  ":",     "::", "[", "]",  "%", "lo",  "fe80",
      "*",   "1", "80", "unix:", "/",  "@", "\n", " ", "ffff"};
  int accepted = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string text;
    for (int length = random() % 9; length > 0; --length) text += pieces[random() % pieces.size()];
    const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
    if (!endpoint.ok()) {
      EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr(": ")) << "seed " << seed;
      continue;
    }
    ++accepted;
    EXPECT_EQ(MustParse(endpoint->ToString()), *endpoint) << text << " seed " << seed;
  }
  EXPECT_GT(accepted, 0);
}

TEST(CompactEndpointTest, KeepsTheAddressesOfPeers) {
  static_assert(sizeof(CompactEndpoint) == 24);
  for (const char* const text : {"127.0.0.1:80", "255.254.253.252:65535", "[2001:db8::1]:443",
                                 "[::1]:1", "[fe80::1%lo]:80"}) {
    const Endpoint endpoint = MustParse(text);
    EXPECT_EQ(CompactEndpoint(endpoint).Expand(), endpoint) << text;
  }
  EXPECT_TRUE(CompactEndpoint(MustParse("unix:/a")).Expand().is_unix());
  EXPECT_EQ(CompactEndpoint().Expand(), Endpoint());
}

TEST(CompactEndpointTest, AnIpv4PeerOfAnIpv6SocketIsAnIpv4One) {
  const CompactEndpoint peer(MustParse("[::ffff:192.0.2.7]:1234"));
  EXPECT_EQ(peer.family(), AF_INET);
  EXPECT_EQ(peer.Expand().ToString(), "192.0.2.7:1234");
}

}  // namespace
}  // namespace netpoll
