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
  // `seed`: of the table of sources.
  Admission(const RouteOptions& options, uint64_t seed);

  // kNone: it is let in, and counted until Leave. Else kDenied, kSourceTooMany or kSourceTooFast.
  // Any fiber; neither blocks for long.
  EndReason Enter(const netpoll::CompactEndpoint& client, sched::Deadline now);
  void Leave(const netpoll::CompactEndpoint& client);

 private:
  bool IsWelcome(const netpoll::CompactEndpoint& client) const;

  const bool has_lists_;
  const bool allows_all_;
  const BlockSet allow_;
  const BlockSet deny_;
  const std::unique_ptr<SourceTable> sources_;  // nullptr: they are not limited
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_ADMISSION_H_
