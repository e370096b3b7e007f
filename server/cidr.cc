// SPDX-License-Identifier: Apache-2.0
#include "server/cidr.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "absl/status/status.h"

namespace parkway {
namespace {

using Bytes = std::array<uint8_t, 16>;

constexpr int kMappedBits = 96;  // of ::ffff:0:0/96 (RFC 4291, 2.5.5.2)
constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

Bytes Map(const in_addr& address) {
  Bytes bytes;
  std::copy(std::begin(kMapped), std::end(kMapped), bytes.begin());
  std::memcpy(bytes.data() + sizeof kMapped, &address, sizeof address);
  return bytes;
}

bool IsMapped(const Bytes& bytes) {
  return std::equal(std::begin(kMapped), std::end(kMapped), bytes.begin());
}

// Of 0 to `max`, without sign or needless zeros.
std::optional<int> ParsePrefix(std::string_view text, int max) {
  if (text.empty() || text.size() > 3 || (text.size() > 1 && text.front() == '0')) {
    return std::nullopt;
  }
  int prefix = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    prefix = prefix * 10 + (digit - '0');
  }
  return prefix <= max ? std::optional<int>(prefix) : std::nullopt;
}

// The first `bits` of both are equal.
bool AgreeIn(int bits, const Bytes& a, const Bytes& b) {
  const int whole = bits / 8;
  if (!std::equal(a.begin(), a.begin() + whole, b.begin())) return false;
  if (bits % 8 == 0) return true;
  const auto mask = static_cast<uint8_t>(0xff << (8 - bits % 8));
  return ((a[whole] ^ b[whole]) & mask) == 0;
}

bool IsZeroFrom(int bit, const Bytes& bytes) {
  for (; bit < 128; ++bit) {
    if ((bytes[bit / 8] >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<Cidr> Cidr::Parse(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string host(text.substr(0, slash));
  const bool has_nul = host.find('\0') != host.npos;  // inet_pton would stop there
  Cidr cidr;
  in_addr v4;
  const bool is_v4 = !has_nul && inet_pton(AF_INET, host.c_str(), &v4) == 1;
  if (is_v4) {
    cidr.address_ = Map(v4);
  } else if (has_nul || inet_pton(AF_INET6, host.c_str(), cidr.address_.data()) != 1) {
    return absl::InvalidArgumentError("not an address; write for example 10.0.0.0/8 or ::1");
  } else if (IsMapped(cidr.address_)) {
    return absl::InvalidArgumentError("write it as IPv4");
  }
  const int bits = is_v4 ? 32 : 128;
  cidr.prefix_ = 128;
  if (slash != text.npos) {
    const std::optional<int> prefix = ParsePrefix(text.substr(slash + 1), bits);
    if (!prefix.has_value()) {
      return absl::InvalidArgumentError("the prefix must be 0 to " + std::to_string(bits));
    }
    cidr.prefix_ = 128 - bits + *prefix;
  }
  if (!IsZeroFrom(cidr.prefix_, cidr.address_)) {
    return absl::InvalidArgumentError("has bits beyond its prefix; widen the prefix or clear them");
  }
  return cidr;
}

std::optional<Cidr> Cidr::Of(const netpoll::Endpoint& endpoint) {
  Cidr cidr;
  cidr.prefix_ = 128;
  if (endpoint.family() == AF_INET) {
    cidr.address_ = Map(reinterpret_cast<const sockaddr_in*>(endpoint.data())->sin_addr);
  } else if (endpoint.family() == AF_INET6) {
    const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(endpoint.data())->sin6_addr;
    std::memcpy(cidr.address_.data(), &v6, cidr.address_.size());
  } else {
    return std::nullopt;
  }
  return cidr;
}

bool Cidr::Contains(const netpoll::Endpoint& endpoint) const {
  const std::optional<Cidr> address = Of(endpoint);
  return address.has_value() && Contains(*address);
}

// ::/0 is every IPv6 address, and no IPv4 one.
bool Cidr::Contains(const Cidr& block) const {
  if (block.prefix_ < prefix_ || is_v4() != block.is_v4()) return false;
  return AgreeIn(prefix_, address_, block.address_);
}

std::strong_ordering operator<=>(const Cidr& a, const Cidr& b) {
  if (a.is_v4() != b.is_v4()) return b.is_v4() <=> a.is_v4();
  if (const auto order = a.address_ <=> b.address_; std::is_neq(order)) return order;
  return a.prefix_ <=> b.prefix_;
}

bool Cidr::is_v4() const { return prefix_ >= kMappedBits && IsMapped(address_); }

std::string Cidr::ToString() const {
  char text[INET6_ADDRSTRLEN];
  if (is_v4()) {
    inet_ntop(AF_INET, address_.data() + sizeof kMapped, text, sizeof text);
    return std::string(text) + "/" + std::to_string(prefix_ - kMappedBits);
  }
  inet_ntop(AF_INET6, address_.data(), text, sizeof text);
  return std::string(text) + "/" + std::to_string(prefix_);
}

}  // namespace parkway
