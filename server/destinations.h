// SPDX-License-Identifier: Apache-2.0
//
// Where clients may be connected to that have chosen their destination themselves.
#ifndef PARKWAY_SERVER_DESTINATIONS_H_
#define PARKWAY_SERVER_DESTINATIONS_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "server/block_set.h"

namespace parkway {

// Addresses that mean this machine or its link, many machines, or what tells machines their secrets
// (kSpecial in destinations.cc), also in the form that NAT64 translates (64:ff9b::/96).
bool IsSpecial(const netpoll::Endpoint& at);

// Blocks of addresses. Those that are special are in it only if a block names them that holds
// nothing else: 0.0.0.0/0 does not allow 127.0.0.1, while 127.0.0.0/8 does. A
// value; copies share the blocks.
class Destinations {
 public:
  Destinations() = default;  // nowhere, and written nowhere

  // Reads a list as ReadBlocks does, of at least one part.
  static absl::StatusOr<Destinations> Parse(std::string_view text);
  // The text from which Parse() makes this.
  const std::string& text() const { return text_; }
  // Nothing was written.
  bool empty() const { return text_.empty(); }

  // An IPv4 address that came over an IPv6 socket (::ffff:a.b.c.d) is one. A Unix socket is none.
  bool Allow(const netpoll::Endpoint& to) const;

  friend bool operator==(const Destinations& a, const Destinations& b) {
    return a.text_ == b.text_ && (a.blocks_ == b.blocks_ || *a.blocks_ == *b.blocks_) &&
           (a.special_ == b.special_ || *a.special_ == *b.special_);
  }

 private:
  std::string text_;
  std::shared_ptr<const BlockSet> blocks_;   // nullptr if empty, like the other
  std::shared_ptr<const BlockSet> special_;  // those within special ones
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_DESTINATIONS_H_
