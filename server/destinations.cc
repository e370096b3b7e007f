// SPDX-License-Identifier: Apache-2.0
#include "server/destinations.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/cidr.h"

namespace parkway {
namespace {

// What nobody means who allows "everything": of the registries of special addresses (RFC 6890 and
// after) those that lead to this machine, to its link, or to many at once. Linux takes 0.0.0.0 and
// :: for this machine; ::/96 also holds the IPv4-compatible addresses, which nobody uses any more.
// And where clouds tell machines their secrets, beside 169.254.0.0/16: Alibaba, Amazon, Google.
constexpr std::string_view kSpecial[] = {
    "0.0.0.0/8",       "127.0.0.0/8",     "169.254.0.0/16", "224.0.0.0/4",
    "255.255.255.255", "100.100.100.200", "::/96",          "fe80::/10",
    "ff00::/8",        "fd00:ec2::/32",   "fd20:ce::254",
};

const std::vector<Cidr>& SpecialBlocks() {
  static const auto* const blocks = [] {
    auto* const all = new std::vector<Cidr>;
    for (const std::string_view text : kSpecial) all->push_back(*Cidr::Parse(text));
    return all;
  }();
  return *blocks;
}

bool IsWithinSpecial(const Cidr& block) {
  const std::vector<Cidr>& all = SpecialBlocks();
  return std::any_of(all.begin(), all.end(), [&](const Cidr& it) { return it.Contains(block); });
}

// What a NAT64 translator makes of an address of 64:ff9b::/96 (RFC 6052); others are their own.
netpoll::Endpoint Untranslated(const netpoll::Endpoint& at) {
  constexpr uint8_t kPrefix[12] = {0x00, 0x64, 0xff, 0x9b};
  const netpoll::CompactEndpoint compact(at);
  const std::span<const uint8_t> bytes = compact.bytes();
  if (bytes.size() != 16 || !std::equal(std::begin(kPrefix), std::end(kPrefix), bytes.begin())) {
    return compact.Expand();
  }
  sockaddr_in translated = {};
  translated.sin_family = AF_INET;
  translated.sin_port = htons(at.port());
  std::memcpy(&translated.sin_addr, &bytes[12], 4);
  return netpoll::Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&translated),
                                         sizeof translated);
}

}  // namespace

bool IsSpecial(const netpoll::Endpoint& at) {
  const std::optional<Cidr> address = Cidr::Of(Untranslated(at));
  return address.has_value() && IsWithinSpecial(*address);
}

absl::StatusOr<Destinations> Destinations::Parse(std::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("names no block; 0.0.0.0/0,::/0 are all");
  Destinations destinations;
  std::vector<Cidr> blocks;
  if (const absl::Status read = ReadBlocks(text, destinations.text_, blocks); !read.ok()) {
    return read;
  }
  destinations.blocks_ = std::make_shared<const BlockSet>(blocks);
  std::erase_if(blocks, [](const Cidr& block) { return !IsWithinSpecial(block); });
  destinations.special_ = std::make_shared<const BlockSet>(blocks);
  return destinations;
}

bool Destinations::Allow(const netpoll::Endpoint& to) const {
  if (empty() || (to.family() != AF_INET && to.family() != AF_INET6)) return false;
  if (IsSpecial(to)) return special_->Contains(Untranslated(to));
  return blocks_->Contains(netpoll::CompactEndpoint(to).Expand());
}

}  // namespace parkway
