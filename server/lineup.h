// SPDX-License-Identifier: Apache-2.0
//
// Who may serve the next session, and the ways to choose among them. A lineup never changes: when a
// backend goes down, another is built.
#ifndef PARKWAY_SERVER_LINEUP_H_
#define PARKWAY_SERVER_LINEUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "netpoll/endpoint.h"
#include "server/route.h"
#include "server/upstream.h"

namespace parkway {

struct Member {
  Upstream* upstream;
  int weight;   // its share, at least 1
  int max = 0;  // most sessions; 0: no limit
};

// Whom a session has tried already.
class Tried {
 public:
  Tried() {}  // NOLINT(modernize-use-equals-default): `= default` would have Tried{} fill the array
  // At most kConnectRetriesMax + 1 of them.
  void Add(const Upstream* upstream) { tried_[count_++] = upstream; }
  bool empty() const { return count_ == 0; }
  bool Has(const Upstream* upstream) const {
    for (int i = 0; i < count_; ++i) {
      if (tried_[i] == upstream) return true;
    }
    return false;
  }

 private:
  std::array<const Upstream*, kConnectRetriesMax + 1> tried_;  // as many as count_ says
  int count_ = 0;
};

// What the choice depends on besides the members.
struct Asking {
  uint32_t turn = 0;    // counts the route's sessions
  uint64_t client = 0;  // ClientHash, where AsksForClient
  Tried tried{};
};

class Lineup {
 public:
  enum class Answer : uint8_t { kTaken, kFull, kNobody };

  Lineup() = default;  // nobody
  // `balance_factor`: of kSource and kMaglev, the most that a member is given of its share, in
  // percent, as long as there is another; 0: no bound.
  Lineup(std::vector<Member> members, Balance balance, int balance_factor);

  bool empty() const { return members_.empty(); }

  // Chooses a member that was not tried, and counts a session in there. kFull: there are some, and
  // all have their most sessions. kNobody: there is none. Never blocks; any thread.
  //
  //   rr         turns, by weight (Rotation); who is full is passed over
  //   leastconn  the fewest sessions for its weight; among equals the one whose turn it is
  //   random2    the better of two drawn by weight (Mitzenmacher 2001)
  //   source     the highest random weight for the client (Thaler and Ravishankar 1998), the same
  //              in every process; who leaves or comes moves only his own clients
  //   maglev     the client's place in a table of which each has his share (Eisenbud and others,
  //              NSDI 2016, 3.4): as source, in constant time, but a few other clients move too
  //   first      the first that is not full
  Answer Take(const Asking& asking, Upstream** taken) const;

 private:
  static bool Usable(const Member& member, const Asking& asking);
  // Nor has it as many sessions for its weight as `bound`.
  static bool Usable(const Member& member, const Asking& asking, double bound);
  double BoundPerWeight() const;
  const Member* AnyUsable(const Asking& asking) const;
  const Member* InTurn(uint64_t turn, const Asking& asking) const;
  const Member* OfTwo(const Asking& asking) const;
  const Member* ByHash(const Asking& asking, double bound) const;
  template <class Better>
  const Member* Best(const Asking& asking, double bound, Better better) const;
  const Member* Choose(const Asking& asking) const;

  std::vector<Member> members_;
  Balance balance_ = Balance::kRoundRobin;
  double balance_factor_ = 0;
  int64_t weights_ = 0;             // their sum
  std::vector<uint64_t> hashes_;    // of the members, of kSource
  std::vector<uint32_t> rotation_;  // of kRoundRobin, kRandom2
  std::vector<uint32_t> table_;     // of kMaglev
};

// Whether a client's address matters to the choice: asking for it costs a system call.
inline bool AsksForClient(Balance balance) {
  return balance == Balance::kSource || balance == Balance::kMaglev;
}

// XXH3 of the client's address without its port, the same in every process; IPv4 clients of a
// dual-stack listener are IPv4 clients. 0 for a Unix socket's.
uint64_t ClientHash(const netpoll::CompactEndpoint& client);

// The order in which weights take turns: w of them belong to a weight of w, spread evenly, and
// equal weights follow one another. Earliest deadline first (Liu and Layland 1973), turn k of a
// weight w being due at (k + 1/2) / w, and of several equal weights each at its part of that span.
std::vector<uint32_t> Rotation(const std::vector<int>& weights);

}  // namespace parkway

#endif  // PARKWAY_SERVER_LINEUP_H_
