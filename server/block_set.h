// SPDX-License-Identifier: Apache-2.0
//
// Many blocks of addresses: what was written, and which addresses are in any of them.
#ifndef PARKWAY_SERVER_BLOCK_SET_H_
#define PARKWAY_SERVER_BLOCK_SET_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "server/cidr.h"

namespace parkway {

class BlockSet {
 public:
  explicit BlockSet(const std::vector<Cidr>& blocks);

  // As Cidr::Contains, of any of them; in a time that grows with the logarithm of their number.
  bool Contains(const netpoll::Endpoint& endpoint) const;

  friend bool operator==(const BlockSet&, const BlockSet&) = default;

 private:
  std::vector<Cidr> blocks_;  // in their order, none within another
};

// Blocks in a list; and in each of its files, of up to 1 MiB, some 60000.
inline constexpr size_t kInlineBlocksMax = 1024;

// Reads 10.0.0.0/8,::1,@/etc/parkway/blocks: blocks, and files that have one in each line, where #
// begins a comment. Appends the blocks, and to `printed` the text from which it makes them. BLOCKS
// THE THREAD on files. Errors (kInvalidArgument) name the part, or the file and line, that is
// wrong.
absl::Status ReadBlocks(std::string_view text, std::string& printed, std::vector<Cidr>& blocks);

// A list as it was written, and the blocks it holds, which copies share; equal if both are.
struct BlockList {
  std::string text{};
  std::shared_ptr<const BlockSet> set{};  // nullptr: there is no list

  // As ReadBlocks.
  static absl::StatusOr<BlockList> Parse(std::string_view text);

  bool empty() const { return text.empty(); }

  friend bool operator==(const BlockList& a, const BlockList& b) {
    return a.text == b.text && (a.set == b.set || *a.set == *b.set);
  }
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_BLOCK_SET_H_
