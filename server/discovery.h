// SPDX-License-Identifier: Apache-2.0
//
// The addresses of one name over time: what an answer, or none, changes.
#ifndef PARKWAY_SERVER_DISCOVERY_H_
#define PARKWAY_SERVER_DISCOVERY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sched/clock.h"
#include "server/question.h"
#include "server/resolver.h"

namespace parkway {

// No clock, no network, no fiber: whoever asks says what came.
//
//   what came              what it changes
//   an answer              addresses are added at once. One that is missing is removed when it is
//                          missing in the next answer, too; a name without addresses is an answer
//                          without them, and the next one comes after ttl_max
//   a part of an answer    addresses are added; what is missing counts for nothing
//   an error               nothing: the last good answer holds, however old it is
class Discovery {
 public:
  struct Bounds {
    sched::Duration ttl_min;  // above 0
    sched::Duration ttl_max;
  };
  // So many answers in a row have to lack an address until it is removed.
  static constexpr int kAbsencesMax = 2;

  struct Change {
    std::vector<Found> added{};
    std::vector<Found> removed{};
    bool any = false;  // also where only a weight or a priority has changed
    // What the operator should know besides: that it begins to fail, in part or as a whole, or to
    // have no addresses, that it works again, that there are too many. Empty: nothing new.
    std::string news{};
  };

  explicit Discovery(const Bounds& bounds) : bounds_(bounds) {}

  Change Note(const absl::StatusOr<NameAnswer>& answer);
  // From what was noted last to the next time to ask: its TTL within the bounds; after errors and
  // answers without addresses ttl_min, and twice as long each time up to ttl_max. While it is to be
  // confirmed that there are none, ttl_max: a cache, which keeps that too, would only repeat
  // itself. Up to a tenth longer by `random`, so that names which came together part.
  sched::Duration Wait(uint64_t random) const;

  // Those to be used now, at most kFoundMax, in the order of their text.
  std::vector<Found> current() const;

 private:
  struct Entry {
    Found found;
    std::string text;
    int absences = 0;
  };
  enum class State : uint8_t { kUnknown, kGood, kPartial, kNone, kFails };

  void Merge(const NameAnswer& answer, Change& change);
  std::string Turn(State state, const std::string& why);

  const Bounds bounds_;
  std::vector<Entry> entries_;  // in the order of their text
  State state_ = State::kUnknown;
  sched::Duration ttl_{0};
  int misses_ = 0;  // errors and answers without addresses in a row
  bool too_many_ = false;
};

// The shares of addresses of a service, 1 to `most` each, in their proportion as far as that
// allows, and `factor` times as large where there is room. Beside others RFC 2782's 0 is "a very
// small chance": 1, and the others are as large as allowed.
std::vector<int> SharesOf(const std::vector<Found>& found, int factor, int most);

}  // namespace parkway

#endif  // PARKWAY_SERVER_DISCOVERY_H_
