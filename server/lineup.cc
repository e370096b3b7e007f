// SPDX-License-Identifier: Apache-2.0
#include "server/lineup.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <queue>
#include <span>
#include <utility>

#include "sched/check.h"
#include "xxhash.h"

namespace parkway {
namespace {

uint64_t HashOf(const Upstream& upstream, uint64_t seed) {
  return XXH3_64bits_withSeed(upstream.name().data(), upstream.name().size(), seed);
}

// Any number becomes one that looks random: the finisher of splitmix64 (Steele, Lea and Flood
// 2014).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// The highest of these is a member's as often as its weight says: -w / ln(u) (Resch 2015).
double Score(uint64_t client, uint64_t member, int weight) {
  const uint64_t hash = XXH3_64bits_withSeed(&member, sizeof member, client);
  const double uniform = (static_cast<double>(hash >> 11) + 0.5) / 9007199254740992.0;  // 2^53
  return -weight / std::log(uniform);
}

// A hundred places for the least weight, so that shares are off by a hundredth, as long as that is
// possible. Primes: every step then visits every place.
size_t TableSize(const std::vector<Member>& members) {
  constexpr size_t kSizes[] = {1021, 4093, 16381, 65521, 262139};
  int64_t sum = 0;
  int least = INT_MAX;
  for (const Member& member : members) {
    sum += member.weight;
    least = std::min(least, member.weight);
  }
  const auto wanted = static_cast<size_t>(100 * sum / least);
  return *std::find_if(std::begin(kSizes), std::end(kSizes) - 1,
                       [&](size_t size) { return size >= wanted; });
}

// Members take turns, by weight, in choosing the next free place of their own permutation.
std::vector<uint32_t> MaglevTable(const std::vector<Member>& members) {
  struct Walk {
    size_t at;
    size_t step;
  };
  const size_t size = TableSize(members);
  std::vector<Walk> walks;
  std::vector<int> weights;
  for (const Member& member : members) {
    walks.push_back(
        {HashOf(*member.upstream, 1) % size, HashOf(*member.upstream, 2) % (size - 1) + 1});
    weights.push_back(member.weight);
  }
  constexpr uint32_t kFree = UINT32_MAX;
  std::vector<uint32_t> table(size, kFree);
  const std::vector<uint32_t> turns = Rotation(weights);
  for (size_t filled = 0; filled < size; ++filled) {
    const uint32_t member = turns[filled % turns.size()];
    Walk& walk = walks[member];
    while (table[walk.at] != kFree) walk.at = (walk.at + walk.step) % size;
    table[walk.at] = member;
  }
  return table;
}

// With the next session included, so that weights count among those that have none.
bool IsLighter(const Member& a, const Member& b) {
  return int64_t{a.upstream->sessions() + 1} * b.weight <
         int64_t{b.upstream->sessions() + 1} * a.weight;
}

}  // namespace

std::vector<uint32_t> Rotation(const std::vector<int>& weights) {
  // One of `count` equal weights, the `rank`-th.
  struct Due {
    int64_t turn;  // counts from 0
    int64_t weight;
    int64_t rank;
    int64_t count;
    uint32_t index;

    // (turn + (rank + 1/2) / count) / weight, as a fraction.
    int64_t numerator() const { return 2 * (turn * count + rank) + 1; }
    int64_t denominator() const { return 2 * count * weight; }
    // Later, or at the same time and of a later index.
    bool operator<(const Due& other) const {
      const int64_t mine = numerator() * other.denominator();
      const int64_t theirs = other.numerator() * denominator();
      return mine != theirs ? mine > theirs : index > other.index;
    }
  };
  const int divisor =
      std::reduce(weights.begin(), weights.end(), 0, [](int a, int b) { return std::gcd(a, b); });
  std::map<int, int64_t> count;
  for (const int weight : weights) ++count[weight];
  std::map<int, int64_t> rank;
  std::priority_queue<Due> due;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int weight = weights[i];
    if (weight == 0) continue;
    due.push({0, weight / divisor, rank[weight]++, count[weight], static_cast<uint32_t>(i)});
  }
  std::vector<uint32_t> rotation;
  while (!due.empty()) {
    Due next = due.top();
    due.pop();
    rotation.push_back(next.index);
    if (++next.turn < next.weight) due.push(next);
  }
  return rotation;
}

uint64_t ClientHash(const netpoll::CompactEndpoint& client) {
  const std::span<const uint8_t> bytes = client.bytes();
  return bytes.empty() ? 0 : XXH3_64bits(bytes.data(), bytes.size());
}

Lineup::Lineup(std::vector<Member> members, Balance balance, int balance_factor)
    : members_(std::move(members)), balance_(balance), balance_factor_(balance_factor / 100.0) {
  std::vector<int> weights;
  for (const Member& member : members_) {
    PARKWAY_CHECK(member.weight > 0, member.weight);
    weights.push_back(member.weight);
    weights_ += member.weight;
    if (balance_ == Balance::kSource) hashes_.push_back(HashOf(*member.upstream, 0));
  }
  if (empty()) return;
  if (balance_ == Balance::kRoundRobin || balance_ == Balance::kRandom2) {
    rotation_ = Rotation(weights);
  }
  if (balance_ == Balance::kMaglev) table_ = MaglevTable(members_);
}

Lineup::Answer Lineup::Take(const Asking& asking, Upstream** taken) const {
  // Somebody else may take the last place between a look and Enter: then who was chosen is full at
  // the next look.
  for (size_t attempt = 0; attempt <= members_.size(); ++attempt) {
    const Member* const member = Choose(asking);
    if (member == nullptr) break;
    if (!member->upstream->Enter(member->max)) continue;
    *taken = member->upstream;
    return Answer::kTaken;
  }
  const bool all_tried = std::all_of(members_.begin(), members_.end(), [&](const Member& member) {
    return asking.tried.Has(member.upstream);
  });
  return all_tried ? Answer::kNobody : Answer::kFull;
}

const Member* Lineup::Choose(const Asking& asking) const {
  if (empty()) return nullptr;
  switch (balance_) {
    case Balance::kRoundRobin:
      return InTurn(asking.turn, asking);
    case Balance::kLeastConn:
      return Best(asking, INFINITY, IsLighter);
    case Balance::kRandom2:
      return OfTwo(asking);
    case Balance::kSource:
    case Balance::kMaglev: {
      // Those within the bound may all have been tried, or be full.
      const Member* const member = ByHash(asking, BoundPerWeight());
      return member != nullptr ? member : ByHash(asking, INFINITY);
    }
    case Balance::kFirst:
      return AnyUsable(asking);
  }
  __builtin_unreachable();
}

bool Lineup::Usable(const Member& member, const Asking& asking) {
  return !member.upstream->IsFull(member.max) && !asking.tried.Has(member.upstream);
}

bool Lineup::Usable(const Member& member, const Asking& asking, double bound) {
  return Usable(member, asking) && member.upstream->sessions() < bound * member.weight;
}

// Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): the next session
// included, nobody has more than balance_factor_ times his share.
double Lineup::BoundPerWeight() const {
  if (balance_factor_ == 0) return INFINITY;
  int64_t sessions = 1;
  for (const Member& member : members_) sessions += member.upstream->sessions();
  return balance_factor_ * static_cast<double>(sessions) / static_cast<double>(weights_);
}

// The first.
const Member* Lineup::AnyUsable(const Asking& asking) const {
  const auto found = std::find_if(members_.begin(), members_.end(),
                                  [&](const Member& member) { return Usable(member, asking); });
  return found == members_.end() ? nullptr : &*found;
}

// Who is passed over leaves his turns to the others by their weights.
const Member* Lineup::InTurn(uint64_t turn, const Asking& asking) const {
  const Member& first = members_[rotation_[turn % rotation_.size()]];
  if (Usable(first, asking)) return &first;
  if (AnyUsable(asking) == nullptr) return nullptr;
  for (size_t i = 1; i < rotation_.size(); ++i) {
    const Member& member = members_[rotation_[(turn + i) % rotation_.size()]];
    if (Usable(member, asking)) return &member;
  }
  return nullptr;  // it was taken meanwhile
}

const Member* Lineup::OfTwo(const Asking& asking) const {
  const uint64_t random = Mix(asking.turn);
  const Member* const a = InTurn(random >> 32, asking);
  const Member* const b = InTurn(random & UINT32_MAX, asking);
  if (a == nullptr || b == nullptr) return nullptr;
  return IsLighter(*b, *a) ? b : a;
}

const Member* Lineup::ByHash(const Asking& asking, double bound) const {
  if (balance_ == Balance::kSource) {
    return Best(asking, bound, [&](const Member& a, const Member& b) {
      return Score(asking.client, hashes_[&a - members_.data()], a.weight) >
             Score(asking.client, hashes_[&b - members_.data()], b.weight);
    });
  }
  const auto usable = [&](const Member& member) { return Usable(member, asking, bound); };
  const auto any = std::find_if(members_.begin(), members_.end(), usable);
  if (any == members_.end()) return nullptr;
  for (size_t i = 0; i < table_.size(); ++i) {
    const Member& member = members_[table_[(asking.client + i) % table_.size()]];
    if (usable(member)) return &member;
  }
  return &*any;  // its weight is so small that it has no place
}

template <class Better>
const Member* Lineup::Best(const Asking& asking, double bound, Better better) const {
  const Member* best = nullptr;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[(asking.turn + i) % members_.size()];
    if (!Usable(member, asking, bound)) continue;
    if (best == nullptr || better(member, *best)) best = &member;
  }
  return best;
}

}  // namespace parkway
