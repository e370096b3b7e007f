// SPDX-License-Identifier: Apache-2.0
#include "server/destinations.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/cidr.h"

namespace parkway {
namespace {

// What nobody means who allows "everything": of the registries of special addresses (RFC 6890 and
// after) those that lead to this machine, to its link, or to many at once. Linux takes 0.0.0.0 and
// :: for this machine; ::/96 also holds the IPv4-compatible addresses, which nobody uses any more.
constexpr std::string_view kSpecial[] = {
    "0.0.0.0/8",       "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4",
    "255.255.255.255", "::/96",       "fe80::/10",      "ff00::/8",
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

}  // namespace

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
  const netpoll::Endpoint at = netpoll::CompactEndpoint(to).Expand();
  const std::optional<Cidr> address = Cidr::Of(at);
  if (empty() || !address.has_value()) return false;
  return (IsWithinSpecial(*address) ? special_ : blocks_)->Contains(at);
}

}  // namespace parkway
