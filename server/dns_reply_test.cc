// SPDX-License-Identifier: Apache-2.0
#include "server/dns_reply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <span>
#include <string>

#include "netpoll/endpoint.h"

namespace parkway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)
using namespace std::string_literals;  // NOLINT(google-build-using-namespace)

constexpr int kA = 1, kCname = 5, kAaaa = 28, kSrv = 33;

std::string Big16(int number) {
  return {static_cast<char>(number >> 8), static_cast<char>(number)};
}
std::string Big32(uint32_t number) {
  return Big16(static_cast<int>(number >> 16)) + Big16(static_cast<int>(number & 0xffff));
}

// "db.test" stands at 12 of every reply; 0xc00c points there.
const std::string& QuestionName() {
  static const auto* const name = new std::string("\2db\4test\0"s);
  return *name;
}
const std::string& Pointer() {
  static const auto* const pointer = new std::string("\xc0\x0c");
  return *pointer;
}

std::string Record(int type, uint32_t ttl, const std::string& data,
                   const std::string& name = Pointer()) {
  return name + Big16(type) + Big16(1) + Big32(ttl) + Big16(static_cast<int>(data.size())) + data;
}

std::string Srv(int priority, int weight, int port, const std::string& target) {
  return Big16(priority) + Big16(weight) + Big16(port) + target;
}

std::string Reply(int type, const std::vector<std::string>& answers) {
  std::string text = Big16(7) + Big16(0x8180) + Big16(1) + Big16(static_cast<int>(answers.size())) +
                     Big32(0) + QuestionName() + Big16(type) + Big16(1);
  for (const std::string& answer : answers) text += answer;
  return text;
}

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::vector<std::string> TextsOf(const std::vector<netpoll::Endpoint>& all) {
  std::vector<std::string> texts;
  texts.reserve(all.size());
  for (const auto& at : all) texts.push_back(at.AddressToString());
  return texts;
}

TEST(DnsReplyTest, ReadsAddressesAndTheLeastTtl) {
  const auto parsed = ParseAddressReply(
      BytesOf(Reply(kA, {Record(kA, 60, "\x0a\0\0\x01"s), Record(kA, 30, "\x0a\0\0\x02"s)})),
      AF_INET);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(TextsOf(parsed->at), ElementsAre("10.0.0.1", "10.0.0.2"));
  EXPECT_EQ(parsed->ttl, 30s);
}

TEST(DnsReplyTest, ReadsIpv6Addresses) {
  const auto parsed = ParseAddressReply(
      BytesOf(Reply(kAaaa, {Record(kAaaa, 60, "\x20\x01\x0d\xb8"s + std::string(11, 0) + "\1")})),
      AF_INET6);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(TextsOf(parsed->at), ElementsAre("2001:db8::1"));
}

TEST(DnsReplyTest, AnAliasLimitsTheTtl) {
  const std::string alias = "\2x1\4test\0"s;
  const auto parsed = ParseAddressReply(
      BytesOf(Reply(kA, {Record(kCname, 5, alias), Record(kA, 60, "\x0a\0\0\x01"s, alias)})),
      AF_INET);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(TextsOf(parsed->at), ElementsAre("10.0.0.1"));
  EXPECT_EQ(parsed->ttl, 5s);
}

TEST(DnsReplyTest, AddressesThatMeanThisMachineAreNone) {
  const auto parsed = ParseAddressReply(BytesOf(Reply(kA, {Record(kA, 60, "\0\0\0\0"s)})), AF_INET);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->at, IsEmpty());
}

TEST(DnsReplyTest, ReadsServices) {
  const auto parsed = ParseServiceReply(
      BytesOf(Reply(kSrv, {Record(kSrv, 60, Srv(1, 20, 5432, "\1a"s + Pointer())),
                           Record(kSrv, 9, Srv(2, 0, 5433, "\1b"s + Pointer()))})));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->records.size(), 2u);
  EXPECT_EQ(parsed->ttl, 9s);
  const auto has = [&](const std::string& target, int port, int weight, int priority) {
    for (const ServiceRecord& record : parsed->records) {
      if (record.target == target && record.port == port && record.weight == weight &&
          record.priority == priority) {
        return true;
      }
    }
    return false;
  };
  EXPECT_TRUE(has("a.db.test", 5432, 20, 1));
  EXPECT_TRUE(has("b.db.test", 5433, 0, 2));
}

TEST(DnsReplyTest, AServiceMaySayThatThereIsNone) {
  const auto parsed =
      ParseServiceReply(BytesOf(Reply(kSrv, {Record(kSrv, 60, Srv(0, 0, 0, "\0"s))})));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->records, IsEmpty());
}

TEST(DnsReplyTest, ATtlWithItsHighestBitIsNone) {
  const auto parsed = ParseServiceReply(
      BytesOf(Reply(kSrv, {Record(kSrv, 0x80000000, Srv(1, 1, 80, "\1a"s + Pointer()))})));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->ttl, 0s);
}

TEST(DnsReplyTest, WhatIsCutShortIsNoReply) {
  const std::string whole = Reply(kSrv, {Record(kSrv, 60, Srv(1, 1, 80, "\1a"s + Pointer()))});
  ASSERT_TRUE(ParseServiceReply(BytesOf(whole)).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ParseServiceReply(BytesOf(whole.substr(0, size))).ok()) << size;
  }
  const std::string host = Reply(kA, {Record(kA, 60, "\x0a\0\0\x01"s)});
  for (size_t size = 0; size < host.size(); ++size) {
    EXPECT_FALSE(ParseAddressReply(BytesOf(host.substr(0, size)), AF_INET).ok()) << size;
  }
}

}  // namespace
}  // namespace parkway
