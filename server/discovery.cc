// SPDX-License-Identifier: Apache-2.0
#include "server/discovery.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

namespace parkway {

Discovery::Change Discovery::Note(const absl::StatusOr<NameAnswer>& answer) {
  Change change;
  if (!answer.ok()) {
    ++misses_;
    change.news = Turn(State::kFails, std::string(answer.status().message()));
    return change;
  }
  ttl_ = answer->ttl;
  misses_ = answer->found.empty() ? misses_ + 1 : 0;
  if (!answer->why_partial.empty()) {
    change.news = Turn(State::kPartial, answer->why_partial);
  } else if (answer->found.empty()) {
    change.news = Turn(State::kNone, answer->why_none);
  } else {
    change.news = Turn(State::kGood, "");
  }
  Merge(*answer, change);
  return change;
}

// Both are in the order of their text.
void Discovery::Merge(const NameAnswer& answer, Change& change) {
  std::vector<Entry> fresh;
  for (const Found& found : answer.found) fresh.push_back({found, found.at.ToString()});
  // Of one that is there twice the best rank counts.
  std::sort(fresh.begin(), fresh.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.text, a.found.priority) < std::tie(b.text, b.found.priority);
  });
  const auto same = [](const Entry& a, const Entry& b) { return a.text == b.text; };
  fresh.erase(std::unique(fresh.begin(), fresh.end(), same), fresh.end());

  std::vector<Entry> next;
  auto old = entries_.begin();
  const auto pass = [&] {  // *old is missing
    if (answer.why_partial.empty()) ++old->absences;
    if (old->absences < kAbsencesMax) {
      next.push_back(std::move(*old));
    } else {
      change.removed.push_back(old->found);
    }
    ++old;
  };
  std::vector<Entry> additions;
  for (Entry& entry : fresh) {
    while (old != entries_.end() && old->text < entry.text) pass();
    if (old != entries_.end() && old->text == entry.text) {
      change.any = change.any || !(old->found == entry.found);
      next.push_back(std::move(entry));
      ++old;
    } else {
      additions.push_back(std::move(entry));
    }
  }
  while (old != entries_.end()) pass();

  const size_t room = kFoundMax - std::min(kFoundMax, next.size());
  if (additions.size() > room && !std::exchange(too_many_, true)) {
    if (!change.news.empty()) change.news += "; ";
    change.news += "has more than " + std::to_string(kFoundMax) + " addresses; others are ignored";
  }
  if (additions.size() <= room) too_many_ = false;
  additions.resize(std::min(additions.size(), room));
  for (Entry& entry : additions) {
    change.added.push_back(entry.found);
    next.push_back(std::move(entry));
  }
  std::sort(next.begin(), next.end(),
            [](const Entry& a, const Entry& b) { return a.text < b.text; });
  entries_ = std::move(next);
  change.any = change.any || !change.added.empty() || !change.removed.empty();
}

// What is to be said of a state, if it was another one before.
std::string Discovery::Turn(State state, const std::string& why) {
  const State before = std::exchange(state_, state);
  if (before == state) return "";
  const std::string keeps =
      entries_.empty() ? "" : "; its " + std::to_string(entries_.size()) + " addresses stay";
  switch (state) {
    case State::kFails:
      return "does not resolve: " + why + keeps;
    case State::kNone:
      return "does not resolve: " + why + (keeps.empty() ? "" : keeps + " until that is confirmed");
    case State::kPartial:
      return "resolves in part: " + why + "; nothing is removed until it resolves as a whole";
    default:
      if (before == State::kPartial) return "resolves as a whole again";
      return before == State::kUnknown ? "" : "resolves again";
  }
}

sched::Duration Discovery::Wait(uint64_t random) const {
  sched::Duration wait = std::clamp(ttl_, bounds_.ttl_min, bounds_.ttl_max);
  if (misses_ > 0) {
    wait = bounds_.ttl_min;
    for (int i = 1; i < misses_ && wait < bounds_.ttl_max; ++i) wait *= 2;
    wait = std::min(wait, bounds_.ttl_max);
  }
  if (state_ == State::kNone && !entries_.empty()) wait = bounds_.ttl_max;
  return wait + wait / 10 * static_cast<int64_t>(random % 1000) / 1000;
}

std::vector<Found> Discovery::current() const {
  std::vector<Found> found;
  for (const Entry& entry : entries_) found.push_back(entry.found);
  return found;
}

std::vector<int> SharesOf(const std::vector<Found>& found, int factor, int most) {
  int64_t divisor = 0;
  int64_t largest = 0;
  bool any_zero = false;
  for (const Found& one : found) {
    divisor = std::gcd(divisor, int64_t{one.weight});
    largest = std::max(largest, int64_t{one.weight});
    any_zero = any_zero || one.weight == 0;
  }
  const bool all_zero = largest == 0;  // then they are equal
  if (all_zero) divisor = largest = 1;
  // In the smallest whole numbers, times the factor, and at most `most`.
  double scale = static_cast<double>(most) / static_cast<double>(largest);
  if (all_zero || !any_zero) {
    scale = std::min(scale, static_cast<double>(factor) / static_cast<double>(divisor));
  }
  std::vector<int> shares;
  for (const Found& one : found) {
    const int share = static_cast<int>(std::lround((all_zero ? 1 : one.weight) * scale));
    shares.push_back(std::clamp(share, 1, most));
  }
  return shares;
}

}  // namespace parkway
