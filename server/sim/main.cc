// SPDX-License-Identifier: Apache-2.0
//
// Runs the daemon through simulated lives, one per seed, on all cores; at the first that breaks a
// promise it drops what is not needed for that and prints the command that shows it again. Exit
// codes: 0 all passed, 1 a seed failed, 2 bad flags.
#include <gflags/gflags.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/sim/campaign.h"
#include "server/sim/endings.h"
#include "server/sim/plan.h"
#include "server/sim/world.h"

DEFINE_int64(seeds, 0, "how many seeds to run, from --seed on; 0: one with --seed, else 10000");
DEFINE_uint64(seed, 1, "the first seed");
DEFINE_string(scenario, "", "only this scenario; empty: all, by the seed");
DEFINE_string(drop, "", "parts to leave out, with commas between, as a failure prints them");
DEFINE_int32(jobs, 0, "processes; 0: one per core");
DEFINE_string(ending, "", "instead: play this row of docs/endings.md, LOGGED: ON ITS WAY");
DEFINE_bool(echo, false, "with --ending: of its table for --mode=echo");
DEFINE_bool(events, false, "print what happened, for a single seed");

namespace {

using parkway::sim::Campaign;
using parkway::sim::Failure;
using parkway::sim::Plan;

constexpr int kBadFlags = 2;

bool IsDefault(const char* name) { return gflags::GetCommandLineFlagInfoOrDie(name).is_default; }

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> pieces;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    pieces.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return pieces;
}

int Complain(const std::string& what) {
  std::cerr << "sim: " << what << "\n";
  return kBadFlags;
}

// The plan of a seed without the parts of --drop.
Plan PlanOf(uint64_t seed) {
  Plan plan = parkway::sim::MakePlan(seed, FLAGS_scenario);
  for (const std::string& part : Split(FLAGS_drop)) Drop(plan, part);
  return plan;
}

std::string CheckFlags() {
  const std::vector<std::string>& known = parkway::sim::Scenarios();
  if (!FLAGS_scenario.empty() &&
      std::find(known.begin(), known.end(), FLAGS_scenario) == known.end()) {
    std::string all;
    for (const std::string& name : known) all += " " + name;
    return "--scenario=" + FLAGS_scenario + ": there are" + all;
  }
  const std::vector<std::string> parts = Parts(parkway::sim::MakePlan(FLAGS_seed, FLAGS_scenario));
  for (const std::string& part : Split(FLAGS_drop)) {
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) {
      return "--drop=" + part + ": seed " + std::to_string(FLAGS_seed) + " has no such part";
    }
  }
  if (FLAGS_seeds < 0) return "--seeds=" + std::to_string(FLAGS_seeds) + ": must not be negative";
  if (FLAGS_jobs < 0) return "--jobs=" + std::to_string(FLAGS_jobs) + ": must not be negative";
  return "";
}

int Report(const Failure& failure) {
  std::cout << "seed " << failure.seed << ": " << failure.what << "\n";
  Plan plan = PlanOf(failure.seed);
  std::string drop = FLAGS_drop;
  for (const std::string& part : parkway::sim::Shrink(plan)) {
    drop += (drop.empty() ? "" : ",") + part;
  }
  std::cout << "fails also with " << Parts(plan).size() << " parts; this shows it again:\n"
            << "  ./dev sim --seed=" << failure.seed << " --scenario=" << plan.scenario
            << (drop.empty() ? "" : " --drop=" + drop) << " --events\n";
  return 1;
}

[[noreturn]] void TellAndEnd(uint64_t seed, const std::string& failure) {
  std::cout << "seed " << seed << ": " << failure << "\n" << std::flush;
  _exit(1);  // its threads stand somewhere in the daemon
}

int RunOne() {
  const parkway::sim::Outcome outcome = RunPlan(PlanOf(FLAGS_seed), /*keep_log=*/true);
  std::cout << outcome.log;
  if (!outcome.failure.empty()) TellAndEnd(FLAGS_seed, outcome.failure);
  return 0;
}

// What the peers saw and the daemon logged, over all seeds: one line if it is always the same.
int RunEnding(int64_t seeds) {
  const size_t colon = FLAGS_ending.find(": ");
  if (colon == std::string::npos) return Complain("--ending=" + FLAGS_ending + ": no colon in it");
  const parkway::sim::Ending ending = {FLAGS_ending.substr(0, colon),
                                       FLAGS_ending.substr(colon + 2), FLAGS_echo};
  std::map<std::string, int64_t> seen;
  for (uint64_t seed = FLAGS_seed; seed < FLAGS_seed + static_cast<uint64_t>(seeds); ++seed) {
    const std::optional<Plan> plan = parkway::sim::PlanOf(ending, seed);
    if (!plan) return Complain("--ending=" + FLAGS_ending + ": docs/endings.md has no such row");
    const parkway::sim::Outcome outcome = RunPlan(*plan, FLAGS_events);
    std::cout << outcome.log;
    if (!outcome.failure.empty()) TellAndEnd(seed, outcome.failure);
    ++seen[outcome.client_saw + " | " + outcome.backend_saw + " | " + outcome.logged];
  }
  for (const auto& [what, count] : seen) std::cout << what << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  gflags::SetUsageMessage("[--seeds=N] [--seed=K] [--scenario=NAME]");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  if (argc > 1) return Complain(std::string(argv[1]) + ": not a flag");
  if (const std::string wrong = CheckFlags(); !wrong.empty()) return Complain(wrong);
  const int64_t everything = IsDefault("seed") ? 10000 : 1;
  const int64_t seeds = FLAGS_seeds > 0 ? FLAGS_seeds : everything;
  if (!FLAGS_ending.empty()) return RunEnding(FLAGS_seeds > 0 ? FLAGS_seeds : 100);
  if (FLAGS_events) {
    return seeds == 1 ? RunOne() : Complain("--events: for one seed only; name it with --seed");
  }
  const int jobs = FLAGS_jobs > 0 ? FLAGS_jobs : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  Campaign campaign(FLAGS_seed, seeds, jobs, &PlanOf);
  if (const auto failure = campaign.Run()) return Report(*failure);
  std::cout << campaign.Summary() << "\n";
  return 0;
}
