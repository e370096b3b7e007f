// SPDX-License-Identifier: Apache-2.0
//
// What name servers are asked.
#ifndef PARKWAY_SERVER_QUESTION_H_
#define PARKWAY_SERVER_QUESTION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

namespace parkway {

// Whose addresses: those of a host, or of the hosts that offer a service (SRV).
struct Question {
  bool srv = false;
  std::string name{};

  // As operators write it, without a port: db.example.com, srv:_pg._tcp.example.com.
  std::string ToString() const { return (srv ? "srv:" : "") + name; }

  friend bool operator==(const Question&, const Question&) = default;
  friend bool operator<(const Question& a, const Question& b) {
    return std::tie(a.srv, a.name) < std::tie(b.srv, b.name);
  }
};

// Which addresses of a host: IPv4 ones, and IPv6 ones where there are no others; all; or one kind.
enum class DnsFamily : uint8_t { kAuto, kAny, kIpv4, kIpv6 };

// Addresses that a question may have; what is more is left out.
inline constexpr size_t kFoundMax = 1024;
// So many lookups run at a time, with an epoll and a socket or two each; others wait for their
// turn.
inline constexpr int kLookupsMax = 64;

}  // namespace parkway

#endif  // PARKWAY_SERVER_QUESTION_H_
