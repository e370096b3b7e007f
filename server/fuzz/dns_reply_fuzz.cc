// SPDX-License-Identifier: Apache-2.0
//
// Replies of name servers, which anybody between may have made: whatever the bytes, an answer has
// addresses and ports that can be connected to, and a TTL that a clock can add.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>

#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"
#include "server/dns_reply.h"

namespace parkway {
namespace {

using sched::testing::Require;

bool IsTtl(sched::Duration ttl) {
  return ttl >= sched::Duration(0) && ttl <= std::chrono::seconds(INT32_MAX);
}

void CheckAddresses(std::span<const uint8_t> reply, int family, std::string_view text) {
  const auto parsed = ParseAddressReply(reply, family);
  if (!parsed.ok()) return;
  Require(IsTtl(parsed->ttl), "a TTL is a TTL", text);
  Require(parsed->at.size() <= kRecordsMax, "there is a most", text);
  for (const netpoll::Endpoint& at : parsed->at) {
    Require(at.family() == family && !at.is_any() && at.port() == 0, "an address is one", text);
  }
}

void CheckServices(std::span<const uint8_t> reply, std::string_view text) {
  const auto parsed = ParseServiceReply(reply);
  if (!parsed.ok()) return;
  Require(IsTtl(parsed->ttl), "a TTL is a TTL", text);
  Require(parsed->records.size() <= kRecordsMax, "there is a most", text);
  for (const ServiceRecord& record : parsed->records) {
    Require(!record.target.empty() && record.port != 0, "a service is somewhere", text);
  }
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Memory of just that size: AddressSanitizer sees it when more is read.
  const auto copy = std::make_unique<uint8_t[]>(size);
  std::copy(data, data + size, copy.get());
  const std::span<const uint8_t> reply(copy.get(), size);
  const std::string_view text = sched::testing::TextOf(data, size);
  parkway::CheckAddresses(reply, AF_INET, text);
  parkway::CheckAddresses(reply, AF_INET6, text);
  parkway::CheckServices(reply, text);
  return 0;
}
