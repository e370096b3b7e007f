// SPDX-License-Identifier: Apache-2.0
//
// Which of its clients a route lets in, before it is asked what serves them.
#ifndef PARKWAY_SERVER_ADMISSION_H_
#define PARKWAY_SERVER_ADMISSION_H_

#include <cstdint>
#include <memory>

#include "netpoll/endpoint.h"
#include "sched/clock.h"
#include "server/block_set.h"
#include "server/end_reason.h"
#include "server/route.h"
#include "server/source_table.h"

namespace parkway {

class Admission {
 public:
  // `seed`: of the table of sources. `before`: of the route that it replaces, whose counts of
  // sources go on if the limits are the same; or nullptr.
  Admission(const RouteOptions& options, uint64_t seed, const Admission* before);

  // kNone: it is let in, and counted until Leave. Else kDenied, kSourceTooMany or kSourceTooFast.
  // Any fiber; neither blocks for long.
  EndReason Enter(const netpoll::CompactEndpoint& client, sched::Deadline now);
  // As Enter, until LeaveUnheard, while the client has to be heard: what it says may lead it to
  // another route, so that it uses nothing of its source's rate here.
  EndReason EnterUnheard(const netpoll::CompactEndpoint& client);
  void LeaveUnheard(const netpoll::CompactEndpoint& client);
  void Leave(const netpoll::CompactEndpoint& client);

 private:
  bool IsWelcome(const netpoll::CompactEndpoint& client) const;
  std::shared_ptr<SourceTable> Sources(uint64_t seed, const Admission* before) const;

  const int source_max_conns_;
  const int source_conn_rate_;
  const std::shared_ptr<const BlockSet> allow_;  // nullptr: all
  const std::shared_ptr<const BlockSet> deny_;   // nullptr: none
  const std::shared_ptr<SourceTable> sources_;   // nullptr: they are not limited
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_ADMISSION_H_
