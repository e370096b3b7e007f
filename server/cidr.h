// SPDX-License-Identifier: Apache-2.0
//
// A block of addresses (RFC 4632).
#ifndef PARKWAY_SERVER_CIDR_H_
#define PARKWAY_SERVER_CIDR_H_

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"

namespace parkway {

class Cidr {
 public:
  // Reads 10.0.0.0/8, 2001:db8::/32, 192.0.2.1 or ::1 (one address). Bits beyond the prefix must be
  // 0. Errors are kInvalidArgument and say what is wrong without repeating the text.
  static absl::StatusOr<Cidr> Parse(std::string_view text);

  // The address of an endpoint alone. An IPv4 client of a dual-stack listener (::ffff:a.b.c.d)
  // counts as IPv4; a Unix socket has none.
  static std::optional<Cidr> Of(const netpoll::Endpoint& endpoint);

  // Whether the endpoint's address, or all of the block, lies in it.
  bool Contains(const netpoll::Endpoint& endpoint) const;
  bool Contains(const Cidr& block) const;

  // The text from which Parse() makes this block, always with its prefix.
  std::string ToString() const;

  // By their first address; of those that begin alike the widest is the first. IPv4 comes before
  // IPv6, so that what lies in a block follows it.
  friend std::strong_ordering operator<=>(const Cidr& a, const Cidr& b);
  friend bool operator==(const Cidr&, const Cidr&) = default;

 private:
  bool is_v4() const;

  // IPv4 as ::ffff:a.b.c.d, so that one comparison does for both.
  std::array<uint8_t, 16> address_ = {};
  int prefix_ = 0;  // of 128 bits
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_CIDR_H_
