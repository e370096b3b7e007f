// SPDX-License-Identifier: Apache-2.0
//
// What an interleaving test asserts of an exploration: that it went through everything and found
// nothing wrong, and which weakened accesses are found.
#ifndef PARKWAY_SCHED_TESTING_PROOF_H_
#define PARKWAY_SCHED_TESTING_PROOF_H_

#include <functional>
#include <vector>

#include "sched/testing/explorer.h"

namespace sched::testing {

// Expects that the exploration was complete and found nothing. Prints its size.
void ExpectProven(const ExploreResult& result);

// The weakenings with which the scenario fails; each is printed. Expects every exploration to be
// complete.
std::vector<Weakening> NeededOrders(const std::function<void(Exploration&)>& scenario,
                                    bool below_seq_cst = false);

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_PROOF_H_
