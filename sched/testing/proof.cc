// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/proof.h"

#include <gtest/gtest.h>

#include <iostream>

namespace sched::testing {

void ExpectProven(const ExploreResult& result) {
  EXPECT_TRUE(result.ok && result.complete) << ToString(result);
  std::cout << ToString(result) << "\n";
}

std::vector<Weakening> NeededOrders(const std::function<void(Exploration&)>& scenario,
                                    bool below_seq_cst) {
  std::vector<Weakening> needed;
  for (const Weakening& weakening : ExploreWeakenings(scenario, below_seq_cst)) {
    EXPECT_TRUE(weakening.result.complete) << ToString(weakening.site);
    if (weakening.result.ok) continue;
    std::cout << "needed: more than " << static_cast<int>(weakening.order) << " "
              << ToString(weakening.site) << "\n";
    needed.push_back(weakening);
  }
  return needed;
}

}  // namespace sched::testing
