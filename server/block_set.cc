// SPDX-License-Identifier: Apache-2.0
#include "server/block_set.h"

#include <algorithm>

#include "absl/status/status.h"
#include "server/text_file.h"

namespace parkway {
namespace {

absl::Status AboutPart(const std::string& part, const absl::Status& status) {
  return absl::InvalidArgumentError(part + ": " + std::string(status.message()));
}

std::string_view WithoutBlanks(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const size_t first = text.find_first_not_of(kBlank);
  return first == text.npos ? "" : text.substr(first, text.find_last_not_of(kBlank) + 1 - first);
}

absl::Status ReadBlockFile(const std::string& path, std::vector<Cidr>& blocks) {
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return AboutPart("@" + path, text.status());
  std::string_view rest = *text;
  for (int number = 1; !rest.empty(); ++number) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    line = WithoutBlanks(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const absl::StatusOr<Cidr> block = Cidr::Parse(line);
    if (!block.ok()) return AboutPart(path + ":" + std::to_string(number), block.status());
    blocks.push_back(*block);
  }
  return absl::OkStatus();
}

// Appends what the part stands for, and how it is written.
absl::Status ReadBlockPart(std::string_view part, std::string& text, std::vector<Cidr>& blocks) {
  text += text.empty() ? "" : ",";
  if (part.starts_with('@')) {
    text += part;
    return ReadBlockFile(std::string(part.substr(1)), blocks);
  }
  const absl::StatusOr<Cidr> block = Cidr::Parse(part);
  if (!block.ok()) return AboutPart(part.empty() ? "\"\"" : std::string(part), block.status());
  text += block->ToString();
  blocks.push_back(*block);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadBlocks(std::string_view text, std::string& printed, std::vector<Cidr>& blocks) {
  for (size_t count = 1;; ++count) {
    if (count > kInlineBlocksMax) {
      return absl::InvalidArgumentError("more than " + std::to_string(kInlineBlocksMax) +
                                        " blocks; write them into a file, @PATH");
    }
    const std::string_view part = text.substr(0, text.find(','));
    const absl::Status read = ReadBlockPart(part, printed, blocks);
    if (!read.ok() || part.size() == text.size()) return read;
    text.remove_prefix(part.size() + 1);
  }
}

absl::StatusOr<BlockList> BlockList::Parse(std::string_view text) {
  BlockList list;
  if (text.empty()) return list;
  std::vector<Cidr> blocks;
  if (const absl::Status read = ReadBlocks(text, list.text, blocks); !read.ok()) return read;
  list.set = std::make_shared<const BlockSet>(blocks);
  return list;
}

// Two blocks are apart, or one lies in the other: then it comes later, and is of no use.
BlockSet::BlockSet(const std::vector<Cidr>& blocks) : blocks_(blocks) {
  std::sort(blocks_.begin(), blocks_.end());
  const auto last = std::unique(blocks_.begin(), blocks_.end(),
                                [](const Cidr& a, const Cidr& b) { return a.Contains(b); });
  blocks_.erase(last, blocks_.end());
}

bool BlockSet::Contains(const netpoll::Endpoint& endpoint) const {
  const std::optional<Cidr> address = Cidr::Of(endpoint);
  if (!address.has_value()) return false;
  const auto behind = std::upper_bound(blocks_.begin(), blocks_.end(), *address);
  return behind != blocks_.begin() && std::prev(behind)->Contains(*address);
}

}  // namespace parkway
