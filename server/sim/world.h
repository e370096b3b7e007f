// SPDX-License-Identifier: Apache-2.0
//
// Runs one plan: the real daemon on a simulated machine, among scripted peers, on one thread. Says
// what was wrong with the run, if anything.
#ifndef PARKWAY_SERVER_SIM_WORLD_H_
#define PARKWAY_SERVER_SIM_WORLD_H_

#include <cstdint>
#include <string>

#include "server/sim/plan.h"

namespace parkway::sim {

struct Outcome {
  std::string failure;  // "" if every promise held
  std::string log;      // with `keep_log`
  int64_t turns = 0;    // of threads and packets: the work it took
  int64_t sessions = 0;
  // What the last client and its backend saw, in the words of docs/endings.md, and what the daemon
  // counted for it.
  std::string client_saw;
  std::string backend_saw;
  std::string logged;
};

Outcome RunPlan(const Plan& plan, bool keep_log);

}  // namespace parkway::sim

#endif  // PARKWAY_SERVER_SIM_WORLD_H_
