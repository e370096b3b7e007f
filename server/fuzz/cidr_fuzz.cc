// SPDX-License-Identifier: Apache-2.0
//
// Blocks of addresses: what is accepted has just the addresses that its prefix says, and prints as
// what is read back.
#include <arpa/inet.h>

#include <cstring>

#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"
#include "server/cidr.h"
#include "server/fuzz/refusal.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using sched::testing::Require;

struct Address {
  int bits;
  uint8_t bytes[16];

  Endpoint endpoint() const {
    sockaddr_in v4 = {};
    sockaddr_in6 v6 = {};
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    std::memcpy(&v4.sin_addr, bytes, sizeof v4.sin_addr);
    std::memcpy(&v6.sin6_addr, bytes, sizeof v6.sin6_addr);
    return bits == 32 ? Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&v4), sizeof v4)
                      : Endpoint::FromSockaddr(reinterpret_cast<sockaddr*>(&v6), sizeof v6);
  }
};

// The address before the '/' of a block that was accepted.
Address AddressOf(const std::string& text) {
  Address address = {};
  const bool is_v6 = text.find(':') != text.npos;
  address.bits = is_v6 ? 128 : 32;
  const std::string host = text.substr(0, text.find('/'));
  Require(inet_pton(is_v6 ? AF_INET6 : AF_INET, host.c_str(), address.bytes) == 1,
          "a block begins with an address", text);
  return address;
}

void CheckBits(const Cidr& block, const std::string& text) {
  const size_t slash = text.find('/');
  Address address = AddressOf(text);
  const int prefix = slash == text.npos ? address.bits : std::stoi(text.substr(slash + 1));
  Require(block.Contains(address.endpoint()), "a block has its own address", text);
  for (int bit = 0; bit < address.bits; ++bit) {
    const auto flip = static_cast<uint8_t>(0x80 >> bit % 8);
    address.bytes[bit / 8] ^= flip;
    Require(block.Contains(address.endpoint()) == (bit >= prefix),
            "a block has the addresses that differ from it behind its prefix", text);
    address.bytes[bit / 8] ^= flip;
  }
}

void CheckText(std::string_view text) {
  const absl::StatusOr<Cidr> block = Cidr::Parse(text);
  if (!block.ok()) return RequireRefusal(block.status(), text);
  CheckBits(*block, std::string(text));
  const absl::StatusOr<Cidr> again = Cidr::Parse(block->ToString());
  Require(again.ok() && *again == *block, "a printed block is read back", text);
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parkway::CheckText(sched::testing::TextOf(data, size));
  return 0;
}
