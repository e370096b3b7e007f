// SPDX-License-Identifier: Apache-2.0
#include "server/served_route.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <queue>

namespace parkway {

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

ServedRoute::ServedRoute(const Route& route)
    : SessionRoute{{route.options.idle_timeout, route.options.half_close_timeout,
                    route.options.reset_linger},
                   route.echo},
      config_(route) {
  std::vector<int> weights;
  for (const Backend& backend : config_.backends) {
    if (backend.drain || backend.weight == 0) continue;
    for (const netpoll::Endpoint& at : backend.at) {
      if (backend.backup) {
        backups_.push_back(at);
      } else {
        serving_.push_back(at);
        weights.push_back(backend.weight);
      }
    }
  }
  rotation_ = Rotation(weights);
}

bool ServedRoute::Serves(const netpoll::Endpoint& client) const {
  return config_.from.empty() ||
         std::any_of(config_.from.begin(), config_.from.end(),
                     [&](const Cidr& block) { return block.Contains(client); });
}

const netpoll::Endpoint* ServedRoute::Attempts::Next() {
  const size_t made = made_++;
  const Addresses& serving = route_.serving_;
  if (made < serving.size()) {
    const size_t first = route_.rotation_[turn_ % route_.rotation_.size()];
    return &serving[(first + made) % serving.size()];
  }
  const size_t backup = made - serving.size();
  const Addresses& backups = route_.backups_;
  return backup < backups.size() ? &backups[(turn_ + backup) % backups.size()] : nullptr;
}

}  // namespace parkway
