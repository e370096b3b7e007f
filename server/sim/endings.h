// SPDX-License-Identifier: Apache-2.0
//
// The rows of docs/endings.md as plans: what has to happen for a session to end in that way, with
// that on its way.
#ifndef PARKWAY_SERVER_SIM_ENDINGS_H_
#define PARKWAY_SERVER_SIM_ENDINGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/sim/plan.h"

namespace parkway::sim {

// The first two columns of a row, in the page's words, and whether it is one of the echo table.
struct Ending {
  std::string logged;
  std::string on_its_way;
  bool echo = false;
};

// nullopt if there is no such row. The seed makes the order of things, not what is done.
std::optional<Plan> PlanOf(const Ending& ending, uint64_t seed);

}  // namespace parkway::sim

#endif  // PARKWAY_SERVER_SIM_ENDINGS_H_
