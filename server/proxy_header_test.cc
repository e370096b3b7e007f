// SPDX-License-Identifier: Apache-2.0
#include "server/proxy_header.h"

#include <sys/un.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/crc32c.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using Problem = ProxyProblem;
using namespace std::string_view_literals;  // NOLINT(google-build-using-namespace)

// --- What headers are made of.

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

std::string Byte(int byte) { return std::string(1, static_cast<char>(byte)); }
std::string TwoBytes(size_t number) {
  return Byte(static_cast<int>(number >> 8)) + Byte(static_cast<int>(number & 0xff));
}

// Version 2 with `rest` behind its length.
std::string V2(int command, int family, const std::string& rest) {
  return FromHex("0d0a0d0a000d0a515549540a") + Byte(command) + Byte(family) +
         TwoBytes(rest.size()) + rest;
}

std::string TlvOf(int type, const std::string& value) {
  return Byte(type) + TwoBytes(value.size()) + value;
}

// 192.0.2.1:1234 and 198.51.100.2:443.
const std::string kInetBlock = FromHex(
    "c0000201c6336402"
    "04d2"
    "01bb");
// [2001:db8::1]:1234 and [2001:db8::2]:443.
const std::string kInet6Block = FromHex(
    "20010db8000000000000000000000001"
    "20010db8000000000000000000000002"
    "04d2"
    "01bb");

std::string Padded(std::string name) {
  name.resize(108);
  return name;
}

std::string WithTlvs(const std::string& tlvs) { return V2(0x21, 0x11, kInetBlock + tlvs); }

// With the checksum of the whole at `at`, whatever stood there.
std::string WithChecksumAt(size_t at, std::string header) {
  header.replace(at, 4, 4, '\0');
  const uint32_t crc = ExtendCrc32c(0, header);
  return header.replace(at, 4, TwoBytes(crc >> 16) + TwoBytes(crc & 0xffff));
}

std::string WithChecksum(const std::string& tlvs_before, const std::string& tlvs_after) {
  return WithChecksumAt(16 + kInetBlock.size() + tlvs_before.size() + 3,
                        WithTlvs(tlvs_before + TlvOf(0x03, "....") + tlvs_after));
}

Endpoint At(std::string_view text) { return *Endpoint::Parse(text); }

// Endpoint::Parse() leaves a byte of the path free, and wants the interface of fe80::1.
Endpoint UnixAt(const std::string& sun_path) {
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, sun_path.data(), sun_path.size());
  return Endpoint::FromSockaddr(
      reinterpret_cast<const sockaddr*>(&un),
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + sun_path.size()));
}

// --- What is said of them.

// Reads a copy that ends where the sanitizer would see a byte too many being read.
ProxyRead Read(std::string_view bytes, AcceptProxy accept, ProxyHeader& header) {
  const auto copy = std::make_unique<char[]>(bytes.size());
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  return ReadProxyHeader({copy.get(), bytes.size()}, accept, header);
}

ProxyRead Read(std::string_view bytes, AcceptProxy accept = AcceptProxy::kAny) {
  ProxyHeader header;
  return Read(bytes, accept, header);
}

Problem ProblemOf(std::string_view bytes, AcceptProxy accept = AcceptProxy::kAny) {
  return Read(bytes, accept).problem;
}

AcceptProxy VersionOf(std::string_view bytes) {
  return bytes.front() == 'P' ? AcceptProxy::kV1 : AcceptProxy::kV2;
}

std::string Describe(const ProxyHeader& header) {
  if (!header.has_addresses) return "none";
  return header.source.ToString() + " " + header.destination.ToString();
}

// Where bytes that arrive can be cut, each place before `size`; of what is very long not each.
std::vector<size_t> CutsBefore(size_t size) {
  std::vector<size_t> cuts;
  for (size_t cut = 0; cut < size; cut += cut < 512 ? 1 : 509) cuts.push_back(cut);
  if (size > 0 && cuts.back() != size - 1) cuts.push_back(size - 1);
  return cuts;
}

// Reads `bytes`, which are a header, in every way they can arrive; returns what is in it.
ProxyHeader Accepted(const std::string& bytes) {
  for (const AcceptProxy accept : {VersionOf(bytes), AcceptProxy::kAny}) {
    for (const size_t size : CutsBefore(bytes.size())) {
      EXPECT_EQ(ProblemOf(bytes.substr(0, size), accept), Problem::kIncomplete) << size;
    }
  }
  ProxyHeader header = {.has_addresses = true, .source = At(":1"), .tlvs = "of another"};
  const ProxyRead read = Read(bytes, VersionOf(bytes), header);
  EXPECT_EQ(read.problem, Problem::kNone);
  EXPECT_EQ(read.size, bytes.size());
  for (const std::string& payload : {std::string("\r\n\r\n"), bytes, std::string(5000, '\xff')}) {
    ProxyHeader same;
    const ProxyRead again = Read(bytes + payload, AcceptProxy::kAny, same);
    EXPECT_EQ(again.problem, Problem::kNone);
    EXPECT_EQ(again.size, bytes.size());
    EXPECT_EQ(Describe(same), Describe(header));
    EXPECT_EQ(same.tlvs, header.tlvs);
  }
  return header;
}

// `bytes` are refused when their first `size` are there, not before, and whatever follows.
void ExpectRefusal(const std::string& bytes, Problem problem, size_t size) {
  SCOPED_TRACE(testing::PrintToString(bytes));
  ASSERT_LE(size, bytes.size());
  for (const size_t prefix : CutsBefore(bytes.size() + 1)) {
    EXPECT_EQ(ProblemOf(bytes.substr(0, prefix)), prefix < size ? Problem::kIncomplete : problem)
        << prefix;
  }
  for (const std::string& payload : {std::string("\r\n"), std::string(5000, '\0')}) {
    EXPECT_EQ(ProblemOf(bytes + payload), problem);
  }
  ProxyHeader header = {.has_addresses = true, .source = At("192.0.2.9:9"), .tlvs = "of before"};
  EXPECT_EQ(Read(bytes, AcceptProxy::kAny, header).size, 0);
  EXPECT_EQ(header.source, At("192.0.2.9:9"));
  EXPECT_EQ(header.tlvs, "of before");
}

void ExpectRefusalAtItsEnd(const std::string& bytes, Problem problem) {
  ExpectRefusal(bytes, problem, bytes.size());
}

// --- Version 1.

TEST(ProxyHeaderTest, ReadsALine) {
  const std::pair<std::string_view, std::string_view> table[] = {
      {"TCP4 192.0.2.1 198.51.100.2 1234 443", "192.0.2.1:1234 198.51.100.2:443"},
      {"TCP4 0.0.0.0 255.255.255.255 0 65535", "0.0.0.0:0 255.255.255.255:65535"},
      {"TCP6 2001:db8::1 ::1 1 2", "[2001:db8::1]:1 [::1]:2"},
      {"TCP6 :: 2001:DB8:0:00:000:0000:0:a 0 9", "[::]:0 [2001:db8::a]:9"},
      {"TCP6 fe80::1 ::ffff:1.2.3.4 1 2", "[fe80::1]:1 [::ffff:1.2.3.4]:2"},
      {"TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
       "65535 65535",
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 "
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
      {"UNKNOWN", "none"},
      {"UNKNOWN ", "none"},
      {"UNKNOWN ffff:: 1.2.3.4 99999 -1 \r or \n, whatever", "none"},
      {"UNKNOWN \0\xff"sv, "none"},
  };
  for (const auto& [fields, expected] : table) {
    SCOPED_TRACE(fields);
    const ProxyHeader header = Accepted("PROXY " + std::string(fields) + "\r\n");
    EXPECT_EQ(Describe(header), expected);
    EXPECT_EQ(header.tlvs, "");
  }
}

TEST(ProxyHeaderTest, AMappedAddressStaysIpv6) {
  const ProxyHeader line = Accepted("PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2\r\n");
  EXPECT_EQ(line.source.family(), AF_INET6);
  const std::string mapped = FromHex("00000000000000000000ffff01020304");
  const ProxyHeader binary = Accepted(V2(0x21, 0x21, mapped + mapped + TwoBytes(1) + TwoBytes(2)));
  EXPECT_EQ(Describe(binary), "[::ffff:1.2.3.4]:1 [::ffff:1.2.3.4]:2");
  EXPECT_EQ(binary.source.family(), AF_INET6);
}

TEST(ProxyHeaderTest, RefusesALineAtItsEnd) {
  const std::string_view table[] = {
      "",
      " ",
      "TCP4",
      "TCP4 ",
      "TCP5 1.2.3.4 5.6.7.8 1 2",
      "tcp4 1.2.3.4 5.6.7.8 1 2",
      "TCP 1.2.3.4 5.6.7.8 1 2",
      "TCP44 1.2.3.4 5.6.7.8 1 2",
      "UDP4 1.2.3.4 5.6.7.8 1 2",
      "UNKNOWNX",
      "UNKNOW",
      "unknown",
      " UNKNOWN",
      "UNKNOWN\t1",
      // Fields.
      "TCP4 1.2.3.4",
      "TCP4 1.2.3.4 5.6.7.8",
      "TCP4 1.2.3.4 5.6.7.8 1",
      "TCP4 1.2.3.4 5.6.7.8 1 ",
      "TCP4 1.2.3.4 5.6.7.8 1 2 ",
      "TCP4 1.2.3.4 5.6.7.8 1 2 3",
      " TCP4 1.2.3.4 5.6.7.8 1 2",
      "TCP4  1.2.3.4 5.6.7.8 1 2",
      "TCP4 1.2.3.4  5.6.7.8 1 2",
      "TCP4 1.2.3.4 5.6.7.8  1 2",
      "TCP4 1.2.3.4 5.6.7.8 1  2",
      "TCP4\t1.2.3.4 5.6.7.8 1 2",
      // Neither of them ends a line.
      "TCP4 1.2.3.4 5.6.7.8 1 2\r",
      "TCP4 1.2.3.4 5.6.7.8 1 2\n",
      "TCP4 1.2.3.4 5.6.7.8 1 2\nGET",
      "TCP4 1.2.3.4\n5.6.7.8 1 2",
      // Ports.
      "TCP4 1.2.3.4 5.6.7.8 65536 2",
      "TCP4 1.2.3.4 5.6.7.8 1 65536",
      "TCP4 1.2.3.4 5.6.7.8 01 2",
      "TCP4 1.2.3.4 5.6.7.8 1 02",
      "TCP4 1.2.3.4 5.6.7.8 00 2",
      "TCP4 1.2.3.4 5.6.7.8 +1 2",
      "TCP4 1.2.3.4 5.6.7.8 -1 2",
      "TCP4 1.2.3.4 5.6.7.8 1 -0",
      "TCP4 1.2.3.4 5.6.7.8 0x1 2",
      "TCP4 1.2.3.4 5.6.7.8 1 2a",
      "TCP4 1.2.3.4 5.6.7.8 99999999999999999999 2",
      "TCP4 1.2.3.4 5.6.7.8 1 2\0"sv,
      "TCP4 1.2.3.4 5.6.7.8 1\0 2"sv,
      // IPv4.
      "TCP4 010.0.0.1 5.6.7.8 1 2",
      "TCP4 1.2.3.04 5.6.7.8 1 2",
      "TCP4 1.2.3.00 5.6.7.8 1 2",
      "TCP4 1.2.3 5.6.7.8 1 2",
      "TCP4 1.2.3.4.5 5.6.7.8 1 2",
      "TCP4 1.2.3.4. 5.6.7.8 1 2",
      "TCP4 1.2.3.256 5.6.7.8 1 2",
      "TCP4 1.2.3.4 5.6.7.1000 1 2",
      "TCP4 0x1.2.3.4 5.6.7.8 1 2",
      "TCP4 1.2.3.4/8 5.6.7.8 1 2",
      "TCP4 localhost 5.6.7.8 1 2",
      "TCP4 1.2.3.4\0 5.6.7.8 1 2"sv,
      "TCP4 1.2.3.4 5.6.7.8\0x 1 2"sv,
      // IPv6.
      "TCP6 1::2::3 ::1 1 2",
      "TCP6 1:2:3:4:5:6:7 ::1 1 2",
      "TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2",
      "TCP6 1:2:3:4:5:6:7:8:: ::1 1 2",
      "TCP6 ::12345 ::1 1 2",
      "TCP6 ::g ::1 1 2",
      "TCP6 : ::1 1 2",
      "TCP6 ::1: ::1 1 2",
      "TCP6 [::1] ::1 1 2",
      "TCP6 fe80::1%1 ::1 1 2",
      "TCP6 ::1 fe80::1%lo 1 2",
      "TCP6 ::ffff:1.2.3.04 ::1 1 2",
      "TCP6 ::ffff:1.2.3 ::1 1 2",
      "TCP6 ::1\0 ::1 1 2"sv,
      // The family must be the keyword's.
      "TCP4 ::1 ::1 1 2",
      "TCP4 1.2.3.4 ::1 1 2",
      "TCP6 1.2.3.4 5.6.7.8 1 2",
      "TCP6 ::1 5.6.7.8 1 2",
      "TCP4 ::ffff:1.2.3.4 5.6.7.8 1 2",
  };
  for (const std::string_view fields : table) {
    ExpectRefusalAtItsEnd("PROXY " + std::string(fields) + "\r\n", Problem::kMalformed);
  }
}

// `size` bytes, with its CRLF.
std::string LineOf(size_t size) {
  const std::string start = "PROXY UNKNOWN ";
  return start + std::string(size - start.size() - 2, 'x') + "\r\n";
}

TEST(ProxyHeaderTest, ALineHasAtMost107Bytes) {
  EXPECT_EQ(Describe(Accepted(LineOf(107))), "none");
  ExpectRefusal(LineOf(108), Problem::kTooLong, 107);
  ExpectRefusal(LineOf(109), Problem::kTooLong, 107);
  ExpectRefusal(LineOf(5000), Problem::kTooLong, 107);
  ExpectRefusal("PROXY " + std::string(101, '\n'), Problem::kTooLong, 107);
  ExpectRefusal("PROXY " + std::string(101, '\r'), Problem::kTooLong, 107);
  // What is wrong with its fields is seen no earlier.
  ExpectRefusal("PROXY TCP4 nonsense" + std::string(200, ' '), Problem::kTooLong, 107);
}

// --- Version 2.

TEST(ProxyHeaderTest, ReadsAddresses) {
  const std::pair<std::string, std::string_view> table[] = {
      {V2(0x21, 0x11, kInetBlock), "192.0.2.1:1234 198.51.100.2:443"},
      {V2(0x21, 0x11, std::string(12, '\0')), "0.0.0.0:0 0.0.0.0:0"},
      {V2(0x21, 0x21, kInet6Block), "[2001:db8::1]:1234 [2001:db8::2]:443"},
      {V2(0x21, 0x21, std::string(36, '\xff')),
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 "
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
      {V2(0x21, 0x31, Padded("/run/a") + Padded("/run/b")), "unix:/run/a unix:/run/b"},
      {V2(0x21, 0x31, Padded("") + Padded("/run/b")), "unix:(unnamed) unix:/run/b"},
      {V2(0x21, 0x31, Padded(std::string("\0a\0b", 4)) + Padded(std::string("\0c", 2))),
       "unix:@a\\x00b unix:@c"},
      {V2(0x21, 0x31, Padded(std::string("/a\0/b", 5)) + Padded("/c")), "unix:/a unix:/c"},
  };
  for (const auto& [bytes, expected] : table) EXPECT_EQ(Describe(Accepted(bytes)), expected);
}

TEST(ProxyHeaderTest, ReadsUnixNamesThatFillTheirField) {
  const std::string path = "/" + std::string(107, 'p');
  const std::string name = std::string(1, '\0') + std::string(107, 'n');
  const ProxyHeader header = Accepted(V2(0x21, 0x31, path + name));
  EXPECT_EQ(header.source, UnixAt(path));
  EXPECT_EQ(header.source.size(), sizeof(sockaddr_un));
  EXPECT_EQ(header.destination, UnixAt(name));
  // One byte less, and the kernel counts the NUL of a path.
  const ProxyHeader shorter = Accepted(V2(0x21, 0x31, Padded(path.substr(1)) + Padded("/")));
  EXPECT_EQ(shorter.source, UnixAt(path.substr(1)));
  EXPECT_EQ(shorter.destination, At("unix:/"));
}

TEST(ProxyHeaderTest, SkipsWhatHasNoAddressesByLength) {
  const std::string no_tlvs = "\x03";  // nor would a checksum be looked at
  const std::string bad_checksum = kInetBlock + TlvOf(0x03, "abcd");
  for (const std::string& rest : {std::string(), no_tlvs, kInetBlock, bad_checksum, kInet6Block,
                                  std::string(kProxyHeaderMax - 16, '\xff')}) {
    for (const int family : {0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32}) {
      const ProxyHeader header = Accepted(V2(0x21, family, rest));
      EXPECT_FALSE(header.has_addresses) << family << " " << rest.size();
      EXPECT_EQ(header.tlvs, "");
    }
  }
}

TEST(ProxyHeaderTest, LocalSkipsAllByLength) {
  for (int family = 0; family < 256; ++family) {
    for (const std::string& rest : {std::string(), std::string("\xff"), kInetBlock}) {
      const ProxyHeader header = Accepted(V2(0x20, family, rest));
      EXPECT_FALSE(header.has_addresses);
      EXPECT_EQ(header.source, Endpoint());
      EXPECT_EQ(header.tlvs, "");
    }
  }
}

TEST(ProxyHeaderTest, RefusesCommands) {
  for (int command = 0; command < 256; ++command) {
    if (command == 0x20 || command == 0x21) continue;
    ExpectRefusal(V2(command, 0x11, kInetBlock), Problem::kBadCommand, 13);
  }
}

TEST(ProxyHeaderTest, RefusesFamilies) {
  for (int family = 0; family < 256; ++family) {
    if (family >> 4 <= 3 && (family & 0xf) <= 2) continue;
    ExpectRefusal(V2(0x21, family, kInet6Block), Problem::kBadFamily, 14);
  }
}

TEST(ProxyHeaderTest, RefusesLengthsThatTheAddressesDoNotFit) {
  const std::pair<int, size_t> table[] = {{0x11, 12}, {0x21, 36}, {0x31, 216}};
  for (const auto& [family, size] : table) {
    EXPECT_TRUE(Accepted(V2(0x21, family, std::string(size, '\1'))).has_addresses);
    for (size_t length = 0; length < size; ++length) {
      ExpectRefusal(V2(0x21, family, std::string(length, '\1')), Problem::kMalformed, 16);
    }
  }
}

TEST(ProxyHeaderTest, AHeaderHasAtMost4096Bytes) {
  static_assert(kProxyHeaderMax == 4096);
  const auto padded_to = [](size_t size) {
    return kInetBlock + TlvOf(0xee, std::string(size - 16 - kInetBlock.size() - 3, 'v'));
  };
  for (const auto& [command, family] : {std::pair(0x21, 0x11), {0x21, 0x00}, {0x20, 0xff}}) {
    Accepted(V2(command, family, padded_to(4096)));
    ExpectRefusal(V2(command, family, padded_to(4097)), Problem::kTooLong, 16);
    ExpectRefusal(V2(command, family, padded_to(16 + 65535)), Problem::kTooLong, 16);
  }
}

TEST(ProxyHeaderTest, CarriesTlvs) {
  std::string all;
  for (const int type : {0x00, 0x01, 0x02, 0x05, 0x30, 0xe0, 0xea, 0xef, 0xf0, 0xf7, 0xf8, 0xff}) {
    const std::string empty = TlvOf(type, "");
    const std::string full = TlvOf(type, std::string("\0\r\n", 3));
    EXPECT_EQ(Accepted(WithTlvs(empty)).tlvs, empty);
    EXPECT_EQ(Accepted(WithTlvs(empty + full)).tlvs, empty + full);
    all += empty + full;
  }
  EXPECT_EQ(Accepted(WithTlvs(all)).tlvs, all);
  EXPECT_EQ(Accepted(V2(0x21, 0x21, kInet6Block + all)).tlvs, all);
  EXPECT_EQ(Accepted(V2(0x21, 0x31, Padded("/a") + Padded("/b") + all)).tlvs, all);
  const std::string padding = TlvOf(0x04, "") + TlvOf(0x04, "padding");
  EXPECT_EQ(Accepted(WithTlvs(padding)).tlvs, padding);
}

TEST(ProxyHeaderTest, RefusesTlvsThatOverrun) {
  const std::string good = TlvOf(0x02, "name");
  for (const std::string& tlvs : {FromHex("e0"), FromHex("e000"), FromHex("e00001"),
                                  FromHex("e0000261"), FromHex("e0ffff"), FromHex("e00100")}) {
    ExpectRefusalAtItsEnd(WithTlvs(tlvs), Problem::kMalformed);
    ExpectRefusalAtItsEnd(WithTlvs(good + tlvs), Problem::kMalformed);
  }
}

TEST(ProxyHeaderTest, AUniqueIdHasAtMost128Bytes) {
  Accepted(WithTlvs(TlvOf(0x05, std::string(128, 'u'))));
  ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x05, std::string(129, 'u'))), Problem::kMalformed);
}

TEST(ProxyHeaderTest, LooksIntoSsl) {
  const std::string start = FromHex("0100000000");
  const std::string version = TlvOf(0x21, "TLSv1.3");
  for (const std::string& value :
       {start, start + version, start + version + TlvOf(0x26, "") + TlvOf(0x03, "x")}) {
    EXPECT_EQ(Accepted(WithTlvs(TlvOf(0x20, value))).tlvs, TlvOf(0x20, value));
  }
  for (const std::string& value :
       {std::string(), FromHex("01000000"), start + "\x21", start + FromHex("2100"),
        start + FromHex("210001"), start + version.substr(0, version.size() - 1),
        start + version + "\x22"}) {
    ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x20, value)), Problem::kMalformed);
    ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x20, value) + version), Problem::kMalformed);
  }
}

TEST(ProxyHeaderTest, VerifiesTheChecksum) {
  const std::string alone = WithChecksum("", "");
  for (const std::string& header :
       {alone, WithChecksum(TlvOf(0x05, "id"), ""), WithChecksum("", TlvOf(0xe0, "more")),
        WithChecksum(TlvOf(0x20, FromHex("0000000000") + TlvOf(0x03, "no checksum")), "")}) {
    EXPECT_EQ(Describe(Accepted(header)), "192.0.2.1:1234 198.51.100.2:443");
  }
  // Each bit counts, but for those that say what the rest is.
  for (size_t bit = 16 * 8; bit < alone.size() * 8; ++bit) {
    std::string flipped = alone;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    const size_t tlv_at = 16 + kInetBlock.size();
    if (bit / 8 >= tlv_at && bit / 8 < tlv_at + 3) continue;
    ExpectRefusalAtItsEnd(flipped, Problem::kBadChecksum);
  }
  ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x03, std::string(4, '\0'))), Problem::kBadChecksum);
}

TEST(ProxyHeaderTest, RefusesChecksumsOfAnotherForm) {
  for (const size_t size : {0, 3, 5, 8}) {
    ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x03, std::string(size, '\0'))), Problem::kMalformed);
  }
  // The first is right, with the second in place.
  const std::string twice = WithChecksum("", TlvOf(0x03, "abcd"));
  ExpectRefusalAtItsEnd(twice, Problem::kMalformed);
  // Beside another mistake the checksum does not matter.
  ExpectRefusalAtItsEnd(WithTlvs(TlvOf(0x03, "abcd") + "\xe0"), Problem::kMalformed);
}

TEST(ProxyHeaderTest, ReadsWhatHaproxySends) {  // 2.6: crc32c and unique-id
  const std::string bytes = FromHex(
      "0d0a0d0a000d0a515549540a2111001a7f0000017f0000019cbb99f3"
      "0300045b1c7dea"
      "050004372d6964");
  const ProxyHeader header = Accepted(bytes);
  EXPECT_EQ(Describe(header), "127.0.0.1:40123 127.0.0.1:39411");
  EXPECT_EQ(header.tlvs, bytes.substr(28));
}

// --- Which version it is.

TEST(ProxyHeaderTest, RefusesOtherBytesAtTheFirst) {
  for (const std::string& start :
       {std::string("PROXY "), V2(0x21, 0x11, kInetBlock).substr(0, 12)}) {
    for (size_t at = 0; at < start.size(); ++at) {
      for (int byte = 0; byte < 256; ++byte) {
        std::string bytes = start + "x";
        if (bytes[at] == static_cast<char>(byte)) continue;
        if (at == 0 && (byte == 'P' || byte == '\r')) continue;  // the other version's, so far
        bytes[at] = static_cast<char>(byte);
        EXPECT_EQ(ProblemOf(bytes.substr(0, at)), Problem::kIncomplete);
        EXPECT_EQ(ProblemOf(bytes.substr(0, at + 1)), Problem::kNotAHeader);
        EXPECT_EQ(ProblemOf(bytes), Problem::kNotAHeader);
      }
    }
  }
  ExpectRefusal("GET / HTTP/1.1\r\n\r\n", Problem::kNotAHeader, 1);
  ExpectRefusal("POST / HTTP/1.1\r\n\r\n", Problem::kNotAHeader, 2);
  ExpectRefusal("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Problem::kNotAHeader, 5);
  ExpectRefusal(FromHex("16030100f8010000f40303"), Problem::kNotAHeader, 1);  // a TLS hello
  ExpectRefusal("PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n", Problem::kNotAHeader, 6);
  ExpectRefusal("PROXY\r\n", Problem::kNotAHeader, 6);
  ExpectRefusal("Proxy UNKNOWN\r\n", Problem::kNotAHeader, 2);
}

TEST(ProxyHeaderTest, RefusesTheVersionThatIsNotAcceptedAtItsFirstByte) {
  const std::string line = "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n";
  const std::string binary = V2(0x21, 0x11, kInetBlock);
  for (size_t size = 1; size <= line.size(); ++size) {
    EXPECT_EQ(ProblemOf(line.substr(0, size), AcceptProxy::kV2), Problem::kNotAHeader);
  }
  for (size_t size = 1; size <= binary.size(); ++size) {
    EXPECT_EQ(ProblemOf(binary.substr(0, size), AcceptProxy::kV1), Problem::kNotAHeader);
  }
  EXPECT_EQ(ProblemOf("", AcceptProxy::kV1), Problem::kIncomplete);
  EXPECT_EQ(ProblemOf("", AcceptProxy::kV2), Problem::kIncomplete);
}

// --- Writing.

std::string Line(std::string_view source, std::string_view destination) {
  return WriteProxyHeader(SendProxy::kV1, {.source = At(source), .destination = At(destination)});
}

TEST(ProxyHeaderTest, WritesALine) {
  EXPECT_EQ(Line("192.0.2.1:1234", "198.51.100.2:0"),
            "PROXY TCP4 192.0.2.1 198.51.100.2 1234 0\r\n");
  EXPECT_EQ(Line("[2001:db8::1]:65535", "[::1]:443"), "PROXY TCP6 2001:db8::1 ::1 65535 443\r\n");
  EXPECT_EQ(Line("[::ffff:1.2.3.4]:1", "[::ffff:5.6.7.8]:2"),
            "PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2\r\n");
  EXPECT_EQ(Line("192.0.2.1:1", "[2001:db8::2]:2"),
            "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
  EXPECT_EQ(Line("[2001:db8::1]:1", "192.0.2.2:2"),
            "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 1 2\r\n");
  EXPECT_EQ(Line("[fe80::1%1]:1", "[fe80::2%1]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n");
  EXPECT_EQ(Line("unix:/a", "unix:/b"), "PROXY UNKNOWN\r\n");
  EXPECT_EQ(Line("unix:/a", "1.2.3.4:5"), "PROXY UNKNOWN\r\n");
  EXPECT_EQ(Line("1.2.3.4:5", "unix:/a"), "PROXY UNKNOWN\r\n");
  EXPECT_EQ(WriteProxyHeader(SendProxy::kV1, {}), "PROXY UNKNOWN\r\n");
}

TEST(ProxyHeaderTest, ALocalLineIsOfTheAddresses) {
  EXPECT_EQ(WriteProxyHeader(
                SendProxy::kV1,
                {.is_local = true, .source = At("1.2.3.4:5"), .destination = At("1.2.3.5:6")}),
            "PROXY TCP4 1.2.3.4 1.2.3.5 5 6\r\n");
  EXPECT_EQ(WriteProxyHeader(SendProxy::kV1, {.is_local = true}), "PROXY UNKNOWN\r\n");
}

TEST(ProxyHeaderTest, ALineHasNoTlvs) {
  EXPECT_EQ(WriteProxyHeader(SendProxy::kV1, {.source = At("1.2.3.4:5"),
                                              .destination = At("1.2.3.5:6"),
                                              .unique_id = "id",
                                              .tlvs = TlvOf(0xe0, "x"),
                                              .checksum = true}),
            "PROXY TCP4 1.2.3.4 1.2.3.5 5 6\r\n");
}

ProxyToSend Sent(std::string_view source, std::string_view destination) {
  return {.source = At(source), .destination = At(destination)};
}

std::string Binary(const ProxyToSend& what) { return WriteProxyHeader(SendProxy::kV2, what); }

TEST(ProxyHeaderTest, WritesAddresses) {
  EXPECT_EQ(Binary(Sent("192.0.2.1:1234", "198.51.100.2:443")), V2(0x21, 0x11, kInetBlock));
  EXPECT_EQ(Binary(Sent("[2001:db8::1]:1234", "[2001:db8::2]:443")), V2(0x21, 0x21, kInet6Block));
  const std::string v4 = FromHex("00000000000000000000ffffc0000201");
  const std::string v6 = FromHex("20010db8000000000000000000000002");
  const std::string ports = TwoBytes(1) + TwoBytes(2);
  EXPECT_EQ(Binary(Sent("192.0.2.1:1", "[2001:db8::2]:2")), V2(0x21, 0x21, v4 + v6 + ports));
  EXPECT_EQ(Binary(Sent("[2001:db8::2]:1", "192.0.2.1:2")), V2(0x21, 0x21, v6 + v4 + ports));
  EXPECT_EQ(Binary(Sent("unix:/a", "unix:@b")),
            V2(0x21, 0x31, Padded("/a") + Padded(std::string("\0b", 2))));
  EXPECT_EQ(Binary({.source = UnixAt(""), .destination = At("unix:/b")}),
            V2(0x21, 0x31, Padded("") + Padded("/b")));
  for (const ProxyToSend& what :
       {Sent("unix:/a", "1.2.3.4:5"), Sent("[::1]:5", "unix:/a"), ProxyToSend()}) {
    EXPECT_EQ(Binary(what), V2(0x21, 0x00, ""));
  }
}

TEST(ProxyHeaderTest, WritesLocal) {
  ProxyToSend what = Sent("192.0.2.1:1", "192.0.2.2:2");
  what.is_local = true;
  what.unique_id = "id";
  const std::string tlvs = TlvOf(0xe0, "x");
  what.tlvs = tlvs;
  EXPECT_EQ(Binary(what), V2(0x20, 0x00, ""));
  what.checksum = true;
  const std::string checked = V2(0x20, 0x00, TlvOf(0x03, "...."));
  EXPECT_EQ(Binary(what), WithChecksumAt(19, checked));
  Accepted(Binary(what));
}

TEST(ProxyHeaderTest, PassesTlvsOn) {
  const std::string mine = TlvOf(0x01, "h2") + TlvOf(0xe0, "") + TlvOf(0x20, FromHex("0000000000"));
  const std::string tlvs = TlvOf(0x03, "abcd") + TlvOf(0x01, "h2") + TlvOf(0x04, "padding") +
                           TlvOf(0xe0, "") + TlvOf(0x05, "theirs") +
                           TlvOf(0x20, FromHex("0000000000")) + TlvOf(0x04, "");
  ProxyToSend what = Sent("192.0.2.1:1234", "198.51.100.2:443");
  what.tlvs = tlvs;
  EXPECT_EQ(Binary(what), WithTlvs(TlvOf(0x01, "h2") + TlvOf(0xe0, "") + TlvOf(0x05, "theirs") +
                                   TlvOf(0x20, FromHex("0000000000"))));
  const std::string id(128, 'u');
  what.unique_id = id;
  EXPECT_EQ(Binary(what), WithTlvs(TlvOf(0x05, id) + mine));
  what.checksum = true;
  EXPECT_EQ(Binary(what), WithChecksum(TlvOf(0x05, id) + mine, ""));
  EXPECT_EQ(Accepted(Binary(what)).tlvs.substr(0, 131 + mine.size()), TlvOf(0x05, id) + mine);
}

TEST(ProxyHeaderTest, LeavesOutTlvsThatDoNotFit) {
  // As much as a header with these addresses can have brought.
  const std::string first = TlvOf(0xe1, std::string(1000, '1'));
  const std::string second = TlvOf(0xe2, std::string(3000, '2'));
  const size_t left = kProxyHeaderMax - WithTlvs(first + second).size();
  const std::string third = TlvOf(0xe3, std::string(left - 6, '3'));
  const std::string last = TlvOf(0xe4, "");
  const std::string tlvs = first + second + third + last;
  ProxyToSend what = Sent("192.0.2.1:1234", "198.51.100.2:443");
  what.tlvs = tlvs;
  EXPECT_EQ(Binary(what), WithTlvs(tlvs));
  EXPECT_EQ(Binary(what).size(), kProxyHeaderMax);
  what.checksum = true;                                       // needs seven
  EXPECT_EQ(Binary(what), WithChecksum(first + second, ""));  // `last` would, but comes later
  what.checksum = false;
  what.source = At("[2001:db8::1]:1234");
  EXPECT_EQ(Binary(what).size(), 16 + 36 + first.size() + second.size());
  what.source = At("192.0.2.1:1234");
  const std::string id(128, 'u');
  what.unique_id = id;
  EXPECT_EQ(Binary(what), WithTlvs(TlvOf(0x05, id) + first));
}

TEST(ProxyHeaderTest, ReadsBackWhatItWrites) {
  const std::string path(108, 'p');
  const std::string name = std::string(1, '\0') + std::string(107, 'n');
  const std::pair<Endpoint, Endpoint> table[] = {
      {At("192.0.2.1:1"), At("192.0.2.2:65535")},
      {At("0.0.0.0:0"), At("255.255.255.255:0")},
      {At("[2001:db8::1]:1"), At("[::]:2")},
      {At("[::ffff:1.2.3.4]:1"), At("[::ffff:1.2.3.5]:2")},
      {At("unix:/a"), At("unix:@b")},
      {UnixAt(""), UnixAt(path)},
      {UnixAt(name), UnixAt(path.substr(1))},
  };
  const std::string tlvs = TlvOf(0x02, "example.org") + TlvOf(0xea, "");
  for (const auto& [source, destination] : table) {
    SCOPED_TRACE(source.ToString() + " " + destination.ToString());
    ProxyToSend what = {.source = source, .destination = destination};
    const ProxyHeader line = Accepted(WriteProxyHeader(SendProxy::kV1, what));
    EXPECT_EQ(line.has_addresses, !source.is_unix());
    if (line.has_addresses) {
      EXPECT_EQ(line.source, source);
      EXPECT_EQ(line.destination, destination);
    }
    what.tlvs = tlvs;
    for (const bool checksum : {false, true}) {
      what.checksum = checksum;
      const ProxyHeader binary = Accepted(Binary(what));
      EXPECT_TRUE(binary.has_addresses);
      EXPECT_EQ(binary.source, source);
      EXPECT_EQ(binary.destination, destination);
      EXPECT_EQ(binary.tlvs.substr(0, tlvs.size()), tlvs);
      EXPECT_EQ(binary.tlvs.size(), tlvs.size() + (checksum ? 7 : 0));
    }
  }
}

TEST(ProxyHeaderTest, WritesWhatHaproxyWrites) {
  ProxyToSend what = Sent("127.0.0.1:40123", "127.0.0.1:39411");
  what.unique_id = "7-id";
  EXPECT_EQ(Binary(what), FromHex("0d0a0d0a000d0a515549540a211100137f0000017f0000019cbb99f3"
                                  "050004372d6964"));
}

TEST(ProxyHeaderDeathTest, NeedsAVersion) {
  EXPECT_DEATH(ProblemOf("", AcceptProxy::kOff), "accept");
  EXPECT_DEATH(WriteProxyHeader(SendProxy::kOff, {}), "version");
  const std::string id(129, 'u');
  EXPECT_DEATH(WriteProxyHeader(SendProxy::kV2, {.unique_id = id}), "unique_id");
}

}  // namespace
}  // namespace parkway
