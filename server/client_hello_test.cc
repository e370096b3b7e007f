// SPDX-License-Identifier: Apache-2.0
#include "server/client_hello.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace parkway {
namespace {

using Problem = HelloProblem;
using Protocols = std::vector<std::string>;
using namespace std::string_literals;  // NOLINT(google-build-using-namespace)

// --- What hellos are made of.

constexpr size_t kFragmentMax = 16384;

std::string Number(size_t size, size_t number) {
  std::string bytes;
  while (size-- > 0) bytes += static_cast<char>(number >> (8 * size) & 0xff);
  return bytes;
}

std::string Vector(size_t length_size, const std::string& bytes) {
  return Number(length_size, bytes.size()) + bytes;
}

std::string Extension(size_t type, const std::string& body) {
  return Number(2, type) + Vector(2, body);
}

std::string NameOf(size_t type, const std::string& name) {
  return Number(1, type) + Vector(2, name);
}

std::string ServerName(const std::string& name) { return Extension(0, Vector(2, NameOf(0, name))); }

std::string Alpn(const Protocols& protocols) {
  std::string list;
  for (const std::string& protocol : protocols) list += Vector(1, protocol);
  return Extension(16, Vector(2, list));
}

// Of RFC 8701, as types, cipher suites and protocols.
std::vector<size_t> Greases() {
  std::vector<size_t> greases;
  for (size_t i = 0; i < 16; ++i) greases.push_back(0x0a0a + i * 0x1010);
  return greases;
}

struct Fields {
  std::string version = "\3\3";
  std::string random = std::string(32, '\xff');
  std::string session_id = std::string(32, '\xff');
  std::string cipher_suites = "\x13\x01\x13\x02";
  std::string compressions = std::string(1, '\0');
  std::string extensions{};
};

std::string Start(const Fields& fields) {
  return fields.version + fields.random + Vector(1, fields.session_id) +
         Vector(2, fields.cipher_suites) + Vector(1, fields.compressions);
}

std::string Body(const Fields& fields) { return Start(fields) + Vector(2, fields.extensions); }

std::string Message(const std::string& body) { return "\1" + Vector(3, body); }

std::string Record(const std::string& fragment, size_t version = 0x0301) {
  return "\x16" + Number(2, version) + Vector(2, fragment);
}

std::string Records(const std::string& message, size_t fragment_size = kFragmentMax) {
  std::string bytes;
  for (size_t at = 0; at < message.size(); at += fragment_size) {
    bytes += Record(message.substr(at, fragment_size));
  }
  return bytes;
}

std::string Hello(const Fields& fields) { return Records(Message(Body(fields))); }

std::string HelloWith(const std::string& extensions) { return Hello({.extensions = extensions}); }

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// --- What is said of them.

// Reads a copy that ends where the sanitizer would see a byte too many being read.
Problem Read(std::string_view bytes, ClientHello& hello) {
  const auto copy = std::make_unique<char[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  return ReadClientHello({copy.get(), bytes.size()}, hello);
}

Problem ProblemOf(std::string_view bytes) {
  ClientHello hello;
  return Read(bytes, hello);
}

// Of prefixes: all of them, or some of many and those around `turn`.
std::vector<size_t> Sizes(size_t end, size_t turn) {
  std::vector<size_t> sizes;
  for (size_t size = 0; size < end; ++size) {
    const bool is_near = size + 20 > turn && size < turn + 20;
    if (size < 1000 || is_near || size % 509 == 0) sizes.push_back(size);
  }
  return sizes;
}

// Reads `bytes`, which are a hello, in every way they can arrive; returns what is in it.
ClientHello Accepted(const std::string& bytes) {
  for (const size_t size : Sizes(bytes.size(), bytes.size())) {
    EXPECT_EQ(ProblemOf(bytes.substr(0, size)), Problem::kIncomplete) << size;
  }
  ClientHello hello = {.server_name = "of.another", .protocols = {"of", "another"}};
  EXPECT_EQ(Read(bytes, hello), Problem::kNone);
  for (const std::string& payload : {"\x14\3\3\0\1\1"s, bytes, std::string(70000, '\0')}) {
    ClientHello same;
    EXPECT_EQ(Read(bytes + payload, same), Problem::kNone);
    EXPECT_EQ(same.server_name, hello.server_name);
    EXPECT_EQ(same.protocols, hello.protocols);
  }
  return hello;
}

// `bytes` are refused when their first `size` are there, not before, and whatever follows.
void ExpectRefusal(const std::string& bytes, Problem problem, size_t size) {
  SCOPED_TRACE(testing::PrintToString(bytes.substr(0, 500)));
  ASSERT_LE(size, bytes.size());
  for (const size_t prefix : Sizes(bytes.size() + 1, size)) {
    EXPECT_EQ(ProblemOf(bytes.substr(0, prefix)), prefix < size ? Problem::kIncomplete : problem)
        << prefix;
  }
  for (const std::string& payload : {std::string("\r\n"), bytes, std::string(70000, '\0')}) {
    EXPECT_EQ(ProblemOf(bytes + payload), problem);
  }
  ClientHello hello = {.server_name = "of.before", .protocols = {"before"}};
  EXPECT_EQ(Read(bytes, hello), problem);
  EXPECT_EQ(hello.server_name, "of.before");
  EXPECT_EQ(hello.protocols, Protocols{"before"});
}

// The fields of a message wait for its end.
void ExpectMalformed(const std::string& hello) {
  ExpectRefusal(hello, Problem::kMalformed, hello.size());
}

std::string NameIn(const std::string& bytes) { return Accepted(bytes).server_name; }

Protocols ProtocolsIn(const std::string& bytes) { return Accepted(bytes).protocols; }

// --- Hellos as they are sent.

TEST(ClientHelloTest, ReadsOneOfOpensslWithNameAndProtocols) {
  const ClientHello hello = Accepted(FromHex(
      "160301014e0100014a0303c318668af071cec4d456d1652f94eb4ea9c1cd7eef4743ceb5ba13fc6b209a272028"
      "9de381dc6fcd1e68a0de89c6df093b9360524af26c83925fb380fad1293af2003e130213031301c02cc030009f"
      "cca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c00"
      "35002f00ff010000c300000014001200000f5757572e4578616d706c652e434f4d000b000403000102000a0016"
      "0014001d0017001e0019001801000101010201030104002300000010000e000c02683208687474702f312e3100"
      "16000000170000000d002a0028040305030603080708080809080a080b08040805080604010501060103030301"
      "0302040205020602002b0009080304030303020301002d00020101003300260024001d0020c57479f5054089f5"
      "ad1e6cc675257e9d95fa9bffdb0d4f2a29dec87e8747ff76"));
  EXPECT_EQ(hello.server_name, "www.example.com");
  EXPECT_EQ(hello.protocols, (Protocols{"h2", "http/1.1"}));
}

TEST(ClientHelloTest, ReadsOneOfOpensslForTls12WithNeither) {
  const ClientHello hello = Accepted(FromHex(
      "16030100830100007f0303b1e83bfbc94bd7261b9b1fdb01e3e3011bbbea9219e11a9c842b825f1d6c673b0000"
      "04c02f00ff01000052000b000403000102000a000c000a001d0017001e00190018002300000016000000170000"
      "000d002a0028040305030603080708080809080a080b0804080508060401050106010303030103020402050206"
      "02"));
  EXPECT_EQ(hello.server_name, "");
  EXPECT_EQ(hello.protocols, Protocols{});
}

TEST(ClientHelloTest, ReadsOneOfGo) {
  const ClientHello hello = Accepted(FromHex(
      "16030101120100010e0303f4c606fd250c4694e506c664fbd20eeaed73474d14ba49e8f107caf04ab69b4e2060"
      "46f6ada5b1c0ea036d9bed2a9f4b157a1cbdb36e257b9ce8b025d440e79bd00026c02bc02fc02cc030cca9cca8"
      "c009c013c00ac014009c009d002f0035c012000a1301130213030100009f00000013001100000e676f2e657861"
      "6d706c652e6e6574000500050100000000000a000a0008001d001700180019000b00020100000d001a00180804"
      "04030807080508060401050106010503060302010203ff010001000010000d000b0a61636d652d746c732f3100"
      "120000002b00050403040303003300260024001d00208678bf8bfc98d8bd5d8a5d15ee4526ad493c44e649f516"
      "c1ec1f8bffa25c6474"));
  EXPECT_EQ(hello.server_name, "go.example.net");
  EXPECT_EQ(hello.protocols, Protocols{"acme-tls/1"});
}

TEST(ClientHelloTest, ExtensionsMayBeAbsent) {
  EXPECT_EQ(NameIn(Records(Message(Start({})))), "");
  EXPECT_EQ(NameIn(HelloWith("")), "");
}

TEST(ClientHelloTest, IgnoresGreaseWhereverItStands) {
  std::string cipher_suites;
  std::string extensions;
  Protocols protocols;
  for (const size_t grease : Greases()) {
    cipher_suites += Number(2, grease);
    extensions += Extension(grease, std::string(grease % 7, '\0'));
    protocols.push_back(Number(2, grease));
  }
  // As key shares, groups and versions have it.
  extensions += Extension(51, Vector(2, Number(2, 0x0a0a) + Vector(2, "\0"s))) +
                Extension(10, Vector(2, Number(2, 0x1a1a))) +
                Extension(43, Vector(1, Number(2, 0x2a2a)));
  const ClientHello hello = Accepted(
      Hello({.cipher_suites = cipher_suites,
             .extensions = extensions + ServerName("a.example") + extensions + Alpn(protocols)}));
  EXPECT_EQ(hello.server_name, "a.example");
  EXPECT_EQ(hello.protocols, protocols);
}

TEST(ClientHelloTest, TheOuterNameOfAnEncryptedHelloCounts) {
  const std::string inner = Number(1, 0) + Message(Body({.extensions = ServerName("inner")}));
  EXPECT_EQ(NameIn(HelloWith(Extension(0xfe0d, inner) + ServerName("outer"))), "outer");
  EXPECT_EQ(NameIn(HelloWith(Extension(0xfe0d, inner))), "");
}

TEST(ClientHelloTest, ReadsKeysThatMakeItLarge) {
  const std::string extensions =
      Alpn({"h2"}) + Extension(51, std::string(1216 + 4, '\xaa')) + ServerName("large.example");
  EXPECT_EQ(NameIn(HelloWith(extensions)), "large.example");
  const std::string larger = Extension(0x1234, std::string(64000, '\xaa')) + extensions;
  EXPECT_EQ(NameIn(HelloWith(larger)), "large.example");
  EXPECT_EQ(ProtocolsIn(HelloWith(larger)), Protocols{"h2"});
}

TEST(ClientHelloTest, RecordsMayBeOfAnySize) {
  const std::string message =
      Message(Body({.extensions = ServerName("split.example") + Alpn({"h2", "http/1.1"})}));
  for (size_t size = 1; size <= message.size(); ++size) {
    SCOPED_TRACE(size);
    const ClientHello hello = Accepted(Records(message, size));
    EXPECT_EQ(hello.server_name, "split.example");
    EXPECT_EQ(hello.protocols, (Protocols{"h2", "http/1.1"}));
  }
}

TEST(ClientHelloTest, ReadsWhatEndsWithinARecord) {
  const std::string message = Message(Body({.extensions = ServerName("a.example")}));
  const std::string bytes = Record(message + message);
  ClientHello hello;
  EXPECT_EQ(Read(bytes.substr(0, 5 + message.size()), hello), Problem::kNone);
  EXPECT_EQ(hello.server_name, "a.example");
  EXPECT_EQ(ProblemOf(bytes.substr(0, 4 + message.size())), Problem::kIncomplete);
  EXPECT_EQ(ProblemOf(bytes), Problem::kNone);
}

TEST(ClientHelloTest, AnyMinorVersionWillDo) {
  for (const size_t minor : {0, 1, 2, 3, 4, 255}) {
    const std::string version = Number(2, 0x0300 + minor);
    const std::string body = Body({.version = version, .extensions = ServerName("a.example")});
    EXPECT_EQ(NameIn(Record(Message(body), 0x0300 + minor)), "a.example");
  }
}

// --- What is none, and records.

TEST(ClientHelloTest, WhatIsNoTlsIsSeenAtItsFirstWrongByte) {
  ExpectRefusal("GET / HTTP/1.1\r\n", Problem::kNotTls, 1);
  ExpectRefusal("SSH-2.0-OpenSSH", Problem::kNotTls, 1);
  ExpectRefusal("\x80\x2e\1\3\3"s, Problem::kNotTls, 1);  // a hello of SSL 2.0
  ExpectRefusal("\x15\3\3\0\2\1\0"s, Problem::kNotTls, 1);
  ExpectRefusal("\x16\2\0\0\1\1"s, Problem::kNotTls, 2);
  ExpectRefusal("\x16\xfe\xfd\0\1\1"s, Problem::kNotTls, 2);  // DTLS
  ExpectRefusal("\x16\3\1\0\4\2\0\0\0"s, Problem::kNotTls, 6);
  ExpectRefusal("\x16\3\1\0\1\0"s, Problem::kNotTls, 6);
}

TEST(ClientHelloTest, ARecordHasOneTo16384Bytes) {
  ExpectRefusal("\x16\3\1\0\0"s, Problem::kMalformed, 5);
  ExpectRefusal("\x16\3\1\x40\1"s, Problem::kMalformed, 5);
  ExpectRefusal("\x16\3\1\xff\xff"s, Problem::kMalformed, 5);
  EXPECT_EQ(ProblemOf("\x16\3\1\x40\0"s), Problem::kIncomplete);
  const std::string message = Message(Body({}));
  const std::string first = Record(message.substr(0, 10));
  ExpectRefusal(first + Record("") + Record(message.substr(10)), Problem::kMalformed,
                first.size() + 5);
  ExpectRefusal(first + "\x16\3\1\x40\1", Problem::kMalformed, first.size() + 5);
}

TEST(ClientHelloTest, NothingComesBetweenItsRecords) {
  const std::string message = Message(Body({}));
  for (const size_t split : {1, 3, 4, 40}) {
    const std::string first = Record(message.substr(0, split));
    const std::string rest = Record(message.substr(split));
    for (const std::string& other : {"\x14"s, "\x15"s, "\x17"s, "G"s}) {
      std::string bytes = first;
      bytes.append(other).append("\3\3\0\2\1\0"s).append(rest);
      ExpectRefusal(bytes, Problem::kMalformed, first.size() + 1);
    }
    std::string bytes = first;
    bytes.append("\x16\2").append(rest.substr(2));
    ExpectRefusal(bytes, Problem::kMalformed, first.size() + 2);
  }
}

// --- How long it may be.

// Of a hello with `size` bytes, its header too.
std::string MessageOf(size_t size) {
  const size_t others =
      Message(Body({.extensions = Extension(0x1234, "") + Extension(0x1234, "")})).size();
  const size_t padding = size - others;
  return Message(Body({.extensions = Extension(0x1234, std::string(padding / 2, '\0')) +
                                     Extension(0x1234, std::string(padding - padding / 2, '\0'))}));
}

TEST(ClientHelloTest, TheLongestHasJustAsManyBytes) {
  const std::string longest = Records(MessageOf(kClientHelloMax - 4 * 5));
  ASSERT_EQ(longest.size(), kClientHelloMax);
  Accepted(longest);
  // Its length tells.
  const std::string longer = Records(MessageOf(kClientHelloMax - 4 * 5 + 1));
  ASSERT_EQ(longer.size(), kClientHelloMax + 1);
  ExpectRefusal(longer, Problem::kTooLong, 5 + 4);
  ExpectRefusal("\x16\3\1\0\4\1\xff\xff\xff"s, Problem::kTooLong, 5 + 4);
}

TEST(ClientHelloTest, TheHeadersOfItsRecordsCount) {
  for (const size_t fragment : {1, 2, 3, 100, 16383}) {
    SCOPED_TRACE(fragment);
    const size_t whole = kClientHelloMax / (fragment + 5);
    const size_t left = kClientHelloMax % (fragment + 5);
    const size_t message_max = whole * fragment + (left > 5 ? left - 5 : 0);
    EXPECT_LE(Records(MessageOf(message_max), fragment).size(), kClientHelloMax);
    Accepted(Records(MessageOf(message_max), fragment));
    const std::string longer = Records(MessageOf(message_max + 1), fragment);
    EXPECT_GT(longer.size(), kClientHelloMax);
    EXPECT_EQ(ProblemOf(longer), Problem::kTooLong);
    EXPECT_EQ(ProblemOf(longer.substr(0, kClientHelloMax)), Problem::kTooLong);
  }
}

TEST(ClientHelloTest, ARecordThatPushesItOverIsSeenByItsHeader) {
  // With room for one more header than it takes at least.
  const std::string message = MessageOf(kClientHelloMax - 4 * 5 - 5);
  const std::string one = Record(message.substr(0, 100));
  Accepted(one + Records(message.substr(100)));
  const std::string two = one + Record(message.substr(100, 100));
  ExpectRefusal(two + Records(message.substr(200)), Problem::kTooLong, one.size() + 5);
}

// --- Its fields.

TEST(ClientHelloTest, FieldsHaveTheirBounds) {
  ExpectMalformed(Hello({.version = "\2\3"}));
  ExpectMalformed(Hello({.version = "\4\3"}));
  Accepted(Hello({.session_id = ""}));
  ExpectMalformed(Hello({.session_id = std::string(33, '\1')}));
  ExpectMalformed(Hello({.cipher_suites = ""}));
  ExpectMalformed(Hello({.cipher_suites = "\x13"}));
  ExpectMalformed(Hello({.cipher_suites = "\x13\1\x13"}));
  Accepted(Hello({.cipher_suites = std::string(65000, '\1')}));
  ExpectMalformed(Hello({.compressions = ""}));
  Accepted(Hello({.compressions = std::string(255, '\0')}));
  ExpectMalformed(Records(Message("")));
}

TEST(ClientHelloTest, ItEndsWithItsExtensions) {
  const std::string extensions = ServerName("a.example");
  ExpectMalformed(Records(Message(Body({.extensions = extensions}) + "\0"s)));
  ExpectMalformed(Records(Message(Start({}) + "\0"s)));
  ExpectMalformed(Records(Message(Start({}) + Number(2, extensions.size() - 1) + extensions)));
  ExpectMalformed(Records(Message(Start({}) + Number(2, extensions.size() + 1) + extensions)));
}

constexpr size_t kLastSize = 300;  // too much for one byte of a length to hold

const Fields kRich = {.extensions = Extension(0x2a2a, "") + ServerName("a.example") +
                                    Extension(0x1234, "\xff\xff\xff\xff") + Alpn({"http/1.1"}) +
                                    Extension(0x3a3a, std::string(kLastSize, '\xff'))};

TEST(ClientHelloTest, WhereverItsFieldsAreCutItIsRefused) {
  const std::string body = Body(kRich);
  for (size_t size = 0; size < body.size(); ++size) {
    const Problem problem = ProblemOf(Records(Message(body.substr(0, size))));
    const bool is_whole = size == Start(kRich).size();  // without extensions
    EXPECT_EQ(problem, is_whole ? Problem::kNone : Problem::kMalformed) << size;
  }
}

TEST(ClientHelloTest, WhereverItsExtensionsAreCutItIsRefused) {
  std::vector<size_t> ends = {0};
  while (ends.back() < kRich.extensions.size()) {
    const auto high = static_cast<unsigned char>(kRich.extensions[ends.back() + 2]);
    const auto low = static_cast<unsigned char>(kRich.extensions[ends.back() + 3]);
    ends.push_back(ends.back() + 4 + high * 256U + low);
  }
  for (size_t size = 0; size <= kRich.extensions.size(); ++size) {
    const bool is_whole = std::find(ends.begin(), ends.end(), size) != ends.end();
    const Problem problem = ProblemOf(HelloWith(kRich.extensions.substr(0, size)));
    EXPECT_EQ(problem, is_whole ? Problem::kNone : Problem::kMalformed) << size;
  }
}

// Where in its body the bytes of lengths are, but for extensions that are not looked into and that
// others follow: such a one may just as well hold the next.
std::vector<size_t> LengthsIn(const std::string& body) {
  const size_t session_id = 2 + 32;
  const size_t cipher_suites = session_id + 1 + kRich.session_id.size();
  const size_t compressions = cipher_suites + 2 + kRich.cipher_suites.size();
  const size_t extensions = compressions + 1 + kRich.compressions.size();
  const size_t name = body.find("a.example");
  const size_t protocol = body.find("http/1.1");
  const size_t last = body.size() - kLastSize;
  std::vector<size_t> ats = {session_id, compressions, protocol - 1};
  for (const size_t at : {cipher_suites, extensions, name - 2, name - 5, name - 7, protocol - 3,
                          protocol - 5, last - 2}) {
    ats.push_back(at);
    ats.push_back(at + 1);
  }
  return ats;
}

TEST(ClientHelloTest, AWrongLengthIsRefused) {
  const std::string body = Body(kRich);
  for (const size_t at : LengthsIn(body)) {
    for (int value = 0; value < 256; ++value) {
      std::string wrong = body;
      wrong[at] = static_cast<char>(value);
      if (wrong == body) continue;
      EXPECT_EQ(ProblemOf(Records(Message(wrong))), Problem::kMalformed) << at << " " << value;
    }
  }
}

// --- The server's name.

std::string HelloTo(const std::string& name) { return HelloWith(ServerName(name)); }

TEST(ClientHelloTest, NamesAreInLowerCaseWithoutADotAtTheEnd) {
  EXPECT_EQ(NameIn(HelloTo("WWW.Example.COM")), "www.example.com");
  EXPECT_EQ(NameIn(HelloTo("www.example.com.")), "www.example.com");
  EXPECT_EQ(NameIn(HelloTo("a..")), "a.");
  EXPECT_EQ(NameIn(HelloTo("a")), "a");
  EXPECT_EQ(NameIn(HelloTo("@[Z]`{_-~!")), "@[z]`{_-~!");
  EXPECT_EQ(NameIn(HelloTo("192.0.2.1")), "192.0.2.1");
  EXPECT_EQ(NameIn(HelloTo("2001:DB8::1")), "2001:db8::1");
}

TEST(ClientHelloTest, NamesHaveAtMost255Bytes) {
  EXPECT_EQ(NameIn(HelloTo(std::string(255, 'A'))), std::string(255, 'a'));
  EXPECT_EQ(NameIn(HelloTo(std::string(254, 'A') + ".")), std::string(254, 'a'));
  ExpectMalformed(HelloTo(std::string(256, 'a')));
  ExpectMalformed(HelloTo(std::string(255, 'a') + "."));
  ExpectMalformed(HelloTo(""));
  ExpectMalformed(HelloTo("."));
}

TEST(ClientHelloTest, NamesArePrintableAscii) {
  for (int c = 0; c < 256; ++c) {
    const std::string name = "a" + Number(1, static_cast<size_t>(c)) + "b";
    const bool is_plain = c > ' ' && c < 0x7f;
    EXPECT_EQ(ProblemOf(HelloTo(name)), is_plain ? Problem::kNone : Problem::kMalformed) << c;
  }
  ExpectMalformed(HelloTo("a\0"s));
  ExpectMalformed(HelloTo("\0"s));
  ExpectMalformed(HelloTo("a.example "));
}

std::string HelloWithNames(const std::string& names) {
  return HelloWith(Extension(0, Vector(2, names)));
}

TEST(ClientHelloTest, JustOneNameIsAHosts) {
  const std::string host = NameOf(0, "a.example");
  const std::string other = NameOf(7, "\0\xff"s);
  EXPECT_EQ(NameIn(HelloWithNames(other + host + NameOf(1, "") + other)), "a.example");
  ExpectMalformed(HelloWithNames(host + host));
  ExpectMalformed(HelloWithNames(host + other + NameOf(0, "b.example")));
  ExpectMalformed(HelloWithNames(other));
  ExpectMalformed(HelloWithNames(""));
  ExpectMalformed(HelloWithNames(host + "\7"));
  ExpectMalformed(HelloWithNames(host + "\7\0\1"s));
}

TEST(ClientHelloTest, TheListOfNamesFillsItsExtension) {
  const std::string name = NameOf(0, "a.example");
  ExpectMalformed(HelloWith(Extension(0, "")));  // as servers answer
  ExpectMalformed(HelloWith(Extension(0, "\0"s)));
  ExpectMalformed(HelloWith(Extension(0, Vector(2, name) + "\0"s)));
  ExpectMalformed(HelloWith(Extension(0, Number(2, name.size() + 1) + name)));
  for (size_t size = 0; size < name.size(); ++size) {
    EXPECT_EQ(ProblemOf(HelloWithNames(name.substr(0, size))), Problem::kMalformed) << size;
  }
}

// --- Protocols.

TEST(ClientHelloTest, ProtocolsAreAnyBytes) {
  const Protocols protocols = {"h2", "H2", "\0"s, " \r\n", std::string(255, '\xff'), "h2"};
  EXPECT_EQ(ProtocolsIn(HelloWith(Alpn(protocols))), protocols);
}

TEST(ClientHelloTest, AtMost64ProtocolsAreRead) {
  EXPECT_EQ(ProtocolsIn(HelloWith(Alpn(Protocols(64, "p")))).size(), 64);
  ExpectMalformed(HelloWith(Alpn(Protocols(65, "p"))));
}

TEST(ClientHelloTest, TheListOfProtocolsFillsItsExtension) {
  ExpectMalformed(HelloWith(Alpn({})));
  ExpectMalformed(HelloWith(Alpn({""})));
  ExpectMalformed(HelloWith(Alpn({"h2", ""})));
  ExpectMalformed(HelloWith(Extension(16, "")));
  ExpectMalformed(HelloWith(Extension(16, "\0"s)));
  ExpectMalformed(HelloWith(Extension(16, Vector(2, "\2h2") + "\0"s)));
  ExpectMalformed(HelloWith(Extension(16, Number(2, 4) + "\2h2")));
  ExpectMalformed(HelloWith(Extension(16, Vector(2, "\3h2"))));
}

TEST(ClientHelloTest, WhatRoutesAreChosenByComesOnce) {
  ExpectMalformed(HelloWith(ServerName("a.example") + ServerName("a.example")));
  ExpectMalformed(HelloWith(ServerName("a.example") + Alpn({"h2"}) + ServerName("b.example")));
  const std::string names_no_host = Extension(0, Vector(2, NameOf(7, "x")));
  ExpectMalformed(HelloWith(ServerName("a.example") + names_no_host));
  ExpectMalformed(HelloWith(names_no_host + ServerName("a.example")));
  ExpectMalformed(HelloWith(Alpn({"h2"}) + Alpn({"h2"})));
  // Of others it is not known what they are.
  const std::string other = Extension(0x1234, "x");
  EXPECT_EQ(NameIn(HelloWith(other + ServerName("a.example") + other)), "a.example");
}

}  // namespace
}  // namespace parkway
