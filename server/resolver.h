// SPDX-License-Identifier: Apache-2.0
//
// The seam to name servers: c-ares in production (dns_resolver.h), a script in a simulation.
#ifndef PARKWAY_SERVER_RESOLVER_H_
#define PARKWAY_SERVER_RESOLVER_H_

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "netpoll/poller.h"
#include "sched/clock.h"
#include "server/question.h"

namespace parkway {

// An address that a name stands for.
struct Found {
  netpoll::Endpoint at{};  // of a host: with port 0
  // Of a service, RFC 2782: its share, 0 to 65535, and its rank; who has the least rank serves.
  int weight = 1;
  int priority = 0;

  friend bool operator==(const Found&, const Found&) = default;
};

struct NameAnswer {
  std::vector<Found> found{};
  sched::Duration ttl{0};  // how long it holds, as the name server says
  // What part of it was not to be had, and why, for the operator: addresses that are missing may
  // still be there. Empty: it is whole.
  std::string why_partial{};
  // Where there is none: "no such name", for the operator.
  std::string why_none{};
};

class Resolver {
 public:
  virtual ~Resolver() = default;
  // Blocks the fiber, never its worker: until there is an answer, none is to be had, or soon after
  // `cancelled` became true. A name that has no addresses is an answer. Errors: kUnavailable with
  // what went wrong, for the operator; kCancelled. Fiber only; several at a time.
  virtual absl::StatusOr<NameAnswer> Lookup(netpoll::Poller& poller, const Question& question,
                                            const std::atomic<bool>& cancelled) = 0;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_RESOLVER_H_
