// SPDX-License-Identifier: Apache-2.0
//
// How many clients of each source there are, and how fast they come.
#ifndef PARKWAY_SERVER_SOURCE_TABLE_H_
#define PARKWAY_SERVER_SOURCE_TABLE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "netpoll/endpoint.h"
#include "sched/clock.h"
#include "sched/mutex.h"
#include "server/end_reason.h"
#include "server/rate.h"

namespace parkway {

// A source is an IPv4 address, or the first 64 bits of an IPv6 one, of which whoever has one has
// all (RFC 4291, 2.5.4). A client over a Unix socket has none, and is not limited.
//
// The table has room for kSources, in sets of kWays, as a processor's cache has lines. A new source
// takes the place of one in its set that has no clients, of those the one that may come again
// soonest. If all have, it is not limited: then its clients count nowhere.
class SourceTable {
 public:
  static constexpr size_t kSources = 65536;
  static constexpr size_t kWays = 8;

  // 0: no limit. `seed`: a random one, so that nobody can choose sources that share a set.
  SourceTable(int max_conns, int conn_rate, uint64_t seed);

  // kNone: the client is counted until Leave. Else kSourceTooMany or kSourceTooFast. Any fiber;
  // none of these blocks for long.
  EndReason Enter(const netpoll::CompactEndpoint& client, sched::Deadline now);
  void Leave(const netpoll::CompactEndpoint& client);
  // A client that has to be heard is counted apart, until LeaveUnheard: it has a place if there is
  // one beside all others, but takes none from those that Enter. Its rate is not asked. kNone or
  // kSourceTooMany.
  EndReason EnterUnheard(const netpoll::CompactEndpoint& client);
  void LeaveUnheard(const netpoll::CompactEndpoint& client);

 private:
  struct Source {
    uint64_t address = 0;
    bool is_v4 = false;
    bool is_used = false;
    int32_t clients = 0;
    int32_t unheard = 0;
    int64_t due = 0;  // Rate
  };
  struct Set {
    std::array<Source, kWays> sources;
  };
  // Every so many sets share a lock.
  struct alignas(64) Lock {
    sched::Mutex mu;
  };
  static constexpr size_t kLocks = 64;

  static std::optional<Source> SourceOf(const netpoll::CompactEndpoint& client);
  size_t SetOf(const Source& source) const;
  // Calls use(source) under its lock, if the client's source is known.
  template <class Use>
  void WithFound(const netpoll::CompactEndpoint& client, Use use);
  // As WithFound, and makes it known. kNone without the call: there is no room, or it has none.
  template <class Use>
  EndReason WithPlaced(const netpoll::CompactEndpoint& client, Use use);
  static Source* Find(const Source& source, Set& set);
  static Source* Place(const Source& source, Set& set);

  const int max_conns_;
  const Rate rate_;
  const uint64_t seed_;
  std::vector<Set> sets_;
  std::array<Lock, kLocks> locks_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SOURCE_TABLE_H_
