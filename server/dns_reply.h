// SPDX-License-Identifier: Apache-2.0
//
// Replies of name servers as bytes, which may be anything: what c-ares makes of them, and what it
// leaves out.
#ifndef PARKWAY_SERVER_DNS_REPLY_H_
#define PARKWAY_SERVER_DNS_REPLY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "sched/clock.h"

namespace parkway {

// More records of one reply are dropped: a reply of 64 KiB has some 4000.
inline constexpr size_t kRecordsMax = 4096;

struct AddressRecords {
  std::vector<netpoll::Endpoint> at{};  // with port 0; without 0.0.0.0 and ::
  sched::Duration ttl{0};               // the least, also of the aliases on the way there
};

struct ServiceRecord {
  std::string target{};
  uint16_t port = 0;
  uint16_t weight = 0;
  uint16_t priority = 0;
};

struct ServiceRecords {
  std::vector<ServiceRecord> records{};  // without those that say that there is no such service
  sched::Duration ttl{0};
};

// The A records (AF_INET) or AAAA records (AF_INET6), none of which is no error. Errors
// (kInvalidArgument): no reply at all. Never blocks.
absl::StatusOr<AddressRecords> ParseAddressReply(std::span<const uint8_t> reply, int family);
// The SRV records; likewise.
absl::StatusOr<ServiceRecords> ParseServiceReply(std::span<const uint8_t> reply);

}  // namespace parkway

#endif  // PARKWAY_SERVER_DNS_REPLY_H_
