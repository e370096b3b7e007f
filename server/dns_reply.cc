// SPDX-License-Identifier: Apache-2.0
#include "server/dns_reply.h"

#include <ares.h>
#include <netinet/in.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "absl/status/status.h"

namespace parkway {
namespace {

using netpoll::Endpoint;

// RFC 2181, 8: what would be negative counts as 0.
sched::Duration TtlOf(int64_t seconds) {
  return std::chrono::seconds(seconds > INT32_MAX ? 0 : std::max<int64_t>(seconds, 0));
}

absl::Status NoReply(int status) { return absl::InvalidArgumentError(ares_strerror(status)); }

Endpoint EndpointOf(const ares_addrttl& record) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr = record.ipaddr;
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

Endpoint EndpointOf(const ares_addr6ttl& record) {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  std::copy(std::begin(record.ip6addr._S6_un._S6_u8), std::end(record.ip6addr._S6_un._S6_u8),
            std::begin(address.sin6_addr.s6_addr));
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

template <class Record>
absl::StatusOr<AddressRecords> ParseAddresses(std::span<const uint8_t> reply,
                                              int (*parse)(const unsigned char*, int, hostent**,
                                                           Record*, int*)) {
  std::vector<Record> records(kRecordsMax);  // not on the fiber's stack
  int count = static_cast<int>(records.size());
  const int status =
      parse(reply.data(), static_cast<int>(reply.size()), nullptr, records.data(), &count);
  if (status == ARES_ENODATA) return AddressRecords();
  if (status != ARES_SUCCESS) return NoReply(status);
  records.resize(static_cast<size_t>(count));
  AddressRecords parsed;
  parsed.ttl = sched::Duration::max();
  for (const Record& record : records) {
    parsed.ttl = std::min(parsed.ttl, TtlOf(record.ttl));
    const Endpoint at = EndpointOf(record);
    if (!at.is_any()) parsed.at.push_back(at);  // blockers of advertisements answer so
  }
  if (records.empty()) parsed.ttl = sched::Duration(0);
  return parsed;
}

// Reads what c-ares has no function for. It never leaves the reply.
class ReplyReader {
 public:
  explicit ReplyReader(std::span<const uint8_t> reply) : reply_(reply) {}

  bool Skip(size_t bytes) {
    if (reply_.size() - at_ < bytes) return false;
    at_ += bytes;
    return true;
  }
  bool SkipName() {
    char* name = nullptr;
    long size = 0;
    const int status = ares_expand_name(reply_.data() + at_, reply_.data(),
                                        static_cast<int>(reply_.size()), &name, &size);
    if (status != ARES_SUCCESS) return false;
    ares_free_string(name);
    return size > 0 && Skip(static_cast<size_t>(size));
  }
  // Big-endian.
  bool Read(size_t bytes, uint32_t* value) {
    if (reply_.size() - at_ < bytes) return false;
    *value = 0;
    for (size_t i = 0; i < bytes; ++i) *value = *value << 8 | reply_[at_++];
    return true;
  }

 private:
  const std::span<const uint8_t> reply_;
  size_t at_ = 0;
};

// The least of the answers, of whatever type: aliases are among them. False: it ends too soon.
bool ReadLeastTtl(std::span<const uint8_t> reply, sched::Duration* least) {
  ReplyReader reader(reply);
  uint32_t questions = 0;
  uint32_t answers = 0;
  if (!reader.Skip(4) || !reader.Read(2, &questions) || !reader.Read(2, &answers)) return false;
  if (!reader.Skip(4)) return false;
  for (uint32_t i = 0; i < questions; ++i) {
    if (!reader.SkipName() || !reader.Skip(4)) return false;
  }
  *least = sched::Duration::max();
  for (uint32_t i = 0; i < answers; ++i) {
    uint32_t ttl = 0;
    uint32_t size = 0;
    if (!reader.SkipName() || !reader.Skip(4) || !reader.Read(4, &ttl)) return false;
    if (!reader.Read(2, &size) || !reader.Skip(size)) return false;
    *least = std::min(*least, TtlOf(ttl));
  }
  return answers > 0;
}

}  // namespace

absl::StatusOr<AddressRecords> ParseAddressReply(std::span<const uint8_t> reply, int family) {
  return family == AF_INET ? ParseAddresses(reply, &ares_parse_a_reply)
                           : ParseAddresses(reply, &ares_parse_aaaa_reply);
}

absl::StatusOr<ServiceRecords> ParseServiceReply(std::span<const uint8_t> reply) {
  ares_srv_reply* list = nullptr;
  const int status = ares_parse_srv_reply(reply.data(), static_cast<int>(reply.size()), &list);
  const auto free = [](ares_srv_reply* it) { ares_free_data(it); };
  const std::unique_ptr<ares_srv_reply, decltype(free)> owner(list, free);
  if (status == ARES_ENODATA) return ServiceRecords();
  if (status != ARES_SUCCESS) return NoReply(status);
  ServiceRecords parsed;
  if (!ReadLeastTtl(reply, &parsed.ttl)) return NoReply(ARES_EBADRESP);
  for (const ares_srv_reply* it = list; it != nullptr; it = it->next) {
    if (parsed.records.size() == kRecordsMax) break;
    const std::string target = it->host;
    if (target.empty() || target == "." || it->port == 0) continue;  // RFC 2782: no such service
    parsed.records.push_back({target, it->port, it->weight, it->priority});
  }
  return parsed;
}

}  // namespace parkway
