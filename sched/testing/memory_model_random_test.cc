// SPDX-License-Identifier: Apache-2.0
//
// The machine of memory_model.h, and the reductions of the explorer, against the axioms of the
// C++20 standard: for random small programs both must give the same set of final results. The
// reference enumerates every reads-from and every modification order and asks whether the standard
// allows them; it shares no code with the machine. For what the axioms do not speak of (locks,
// blocking, races), the reference is the explorer without its reductions.
//
// SEED=n in the environment tries other programs, SCALE=n that many times as many.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sched/testing/explorer.h"

namespace sched::testing {
namespace {

using Order = std::memory_order;
constexpr Order kRelaxed = std::memory_order_relaxed;
constexpr Order kAcquire = std::memory_order_acquire;
constexpr Order kRelease = std::memory_order_release;
constexpr Order kAcqRel = std::memory_order_acq_rel;
constexpr Order kSeqCst = std::memory_order_seq_cst;

enum class Kind { kLoad, kStore, kExchange, kCompareExchange };

struct Instruction {
  Kind kind;
  int location;
  Order order;
  Order failed_order;  // kCompareExchange
  int value;           // stored; no two instructions store the same one
  int expected;        // kCompareExchange
};
using Program = std::vector<std::vector<Instruction>>;  // [thread]

// What each instruction read (-1: a store), thread by thread, then the last value of each location.
using Result = std::vector<int>;

constexpr int kLocations = 2;

std::string ToString(const Program& program) {
  const auto name = [](Order order) {
    return order == kRelaxed   ? "rlx"
           : order == kAcquire ? "acq"
           : order == kRelease ? "rel"
           : order == kAcqRel  ? "acqrel"
                               : "sc";
  };
  std::string text;
  for (size_t t = 0; t < program.size(); ++t) {
    text += "thread " + std::to_string(t) + ":";
    for (const Instruction& it : program[t]) {
      const std::string location(1, "xyzw"[it.location]);
      const std::string value = std::to_string(it.value);
      switch (it.kind) {
        case Kind::kLoad:
          text.append(" load(").append(location);
          break;
        case Kind::kStore:
          text.append(" store(").append(location).append("=").append(value);
          break;
        case Kind::kExchange:
          text.append(" exchange(").append(location).append("=").append(value);
          break;
        case Kind::kCompareExchange:
          text.append(" cas(").append(location).append(":").append(std::to_string(it.expected));
          text.append("->").append(value).append(" failed ").append(name(it.failed_order));
          break;
      }
      text += std::string(" ") + name(it.order) + ");";
    }
    text += "\n";
  }
  return text;
}

std::string ToString(const std::set<Result>& results) {
  std::string text;
  for (const Result& result : results) {
    for (const int value : result) text += std::to_string(value) + " ";
    text += "\n";
  }
  return text;
}

// --- The reference

constexpr int kEventsMax = 16;
using Relation = std::array<std::array<bool, kEventsMax>, kEventsMax>;

class Axioms {
 public:
  explicit Axioms(const Program& program) {
    for (int location = 0; location < kLocations; ++location) {
      events_.push_back({-1, {Kind::kStore, location, kRelaxed, kRelaxed, 0, 0}});
    }
    for (size_t t = 0; t < program.size(); ++t) {
      for (const Instruction& it : program[t]) events_.push_back({static_cast<int>(t), it});
    }
    count_ = static_cast<int>(events_.size());
    if (count_ > kEventsMax) abort();
    from_.fill(-1);
  }

  std::set<Result> Results() {
    ChooseReads(kLocations);
    return std::move(results_);
  }

 private:
  struct Event {
    int thread;  // -1: initialisation
    Instruction it;
  };

  // --- Candidates

  void ChooseReads(int event) {
    if (event == count_) {
      if (ReadsAreStores()) ChooseModificationOrders(0);
      return;
    }
    if (events_[event].it.kind == Kind::kStore) {
      ChooseReads(event + 1);
      return;
    }
    for (int source = 0; source < count_; ++source) {
      if (source == event || events_[source].it.location != events_[event].it.location) continue;
      if (events_[source].it.kind == Kind::kLoad) continue;
      from_[event] = source;
      ChooseReads(event + 1);
    }
    from_[event] = -1;
  }

  int ValueRead(int event) const { return events_[from_[event]].it.value; }
  bool Reads(int event) const { return events_[event].it.kind != Kind::kStore; }
  bool Writes(int event) const {
    const Instruction& it = events_[event].it;
    if (it.kind == Kind::kCompareExchange) return ValueRead(event) == it.expected;
    return it.kind != Kind::kLoad;
  }
  bool Updates(int event) const { return Reads(event) && Writes(event); }
  Order OrderOf(int event) const {
    const Instruction& it = events_[event].it;
    const bool failed = it.kind == Kind::kCompareExchange && !Writes(event);
    return failed ? it.failed_order : it.order;
  }
  bool IsSeqCst(int event) const { return events_[event].thread >= 0 && OrderOf(event) == kSeqCst; }

  bool ReadsAreStores() const {
    for (int e = 0; e < count_; ++e) {
      if (Reads(e) && !Writes(from_[e])) return false;
    }
    return true;
  }

  void ChooseModificationOrders(int location) {
    if (location == kLocations) {
      if (IsAllowed()) Record();
      return;
    }
    std::vector<int> writes;
    for (int e = 0; e < count_; ++e) {
      if (events_[e].it.location == location && Writes(e)) writes.push_back(e);
    }
    std::sort(writes.begin() + 1, writes.end());  // the initialisation is first
    do {
      for (size_t i = 0; i < writes.size(); ++i) place_[writes[i]] = static_cast<int>(i);
      last_[location] = writes.back();
      ChooseModificationOrders(location + 1);
    } while (std::next_permutation(writes.begin() + 1, writes.end()));
  }

  void Record() {
    Result result;
    for (int e = kLocations; e < count_; ++e) result.push_back(Reads(e) ? ValueRead(e) : -1);
    for (int location = 0; location < kLocations; ++location) {
      result.push_back(events_[last_[location]].it.value);
    }
    results_.insert(result);
  }

  // --- The standard

  bool SameLocation(int a, int b) const { return events_[a].it.location == events_[b].it.location; }
  bool SequencedBefore(int a, int b) const {
    if (events_[a].thread < 0) return events_[b].thread >= 0;  // before the threads start
    return events_[a].thread == events_[b].thread && a < b;
  }
  static bool Acquires(Order order) {
    return order == kAcquire || order == kAcqRel || order == kSeqCst;
  }
  static bool Releases(Order order) {
    return order == kRelease || order == kAcqRel || order == kSeqCst;
  }

  // `b` reads from the release sequence headed by `a`.
  bool SynchronizesWith(int a, int b) const {
    if (!Reads(b) || !Acquires(OrderOf(b)) || events_[a].thread < 0) return false;
    if (!Writes(a) || !Releases(OrderOf(a)) || events_[a].thread == events_[b].thread) return false;
    int source = from_[b];
    for (int hops = 0; hops <= count_; ++hops) {
      if (source == a) return true;
      if (!Updates(source)) return false;
      source = from_[source];
    }
    return false;
  }

  // [atomics.order]: reads-from, modification order, from-reads, and their compositions.
  bool CoherenceOrdered(int a, int b) const {
    if (a == b || !SameLocation(a, b)) return false;
    const auto newest = [&](int e) { return Writes(e) ? place_[e] : place_[from_[e]]; };
    if (Writes(a) && Writes(b)) return place_[a] < place_[b];
    if (Writes(a)) return place_[a] <= newest(b);
    return newest(a) < newest(b);
  }

  void Close(Relation& relation) const {
    for (int k = 0; k < count_; ++k) {
      for (int i = 0; i < count_; ++i) {
        for (int j = 0; j < count_; ++j) {
          if (relation[i][k] && relation[k][j]) relation[i][j] = true;
        }
      }
    }
  }
  bool IsCyclic(Relation relation) const {
    Close(relation);
    for (int e = 0; e < count_; ++e) {
      if (relation[e][e]) return true;
    }
    return false;
  }

  bool IsAllowed() const {
    Relation causes{};  // no value out of thin air, and no load buffering
    Relation before{};  // happens before
    for (int a = 0; a < count_; ++a) {
      for (int b = 0; b < count_; ++b) {
        causes[a][b] = SequencedBefore(a, b) || from_[b] == a;
        before[a][b] = SequencedBefore(a, b) || SynchronizesWith(a, b);
      }
    }
    if (IsCyclic(causes)) return false;
    Close(before);
    for (int e = 0; e < count_; ++e) {
      if (before[e][e]) return false;
      if (Updates(e) && place_[e] != place_[from_[e]] + 1) return false;
    }
    for (int a = 0; a < count_; ++a) {
      for (int b = 0; b < count_; ++b) {
        if (before[a][b] && CoherenceOrdered(b, a)) return false;
      }
    }
    // Strongly happens before: sequenced, synchronised between two seq_cst, or sequenced + simply +
    // sequenced.
    Relation order{};
    for (int a = 0; a < count_; ++a) {
      for (int b = 0; b < count_; ++b) {
        order[a][b] =
            SequencedBefore(a, b) || (SynchronizesWith(a, b) && IsSeqCst(a) && IsSeqCst(b));
        for (int c = 0; c < count_ && !order[a][b]; ++c) {
          for (int d = 0; d < count_ && !order[a][b]; ++d) {
            order[a][b] = SequencedBefore(a, c) && before[c][d] && SequencedBefore(d, b);
          }
        }
      }
    }
    Close(order);
    for (int a = 0; a < count_; ++a) {
      for (int b = 0; b < count_; ++b) {
        if (!IsSeqCst(a) || !IsSeqCst(b)) {
          order[a][b] = false;
        } else if (CoherenceOrdered(a, b)) {
          order[a][b] = true;
        }
      }
    }
    return !IsCyclic(order);
  }

  std::vector<Event> events_;
  int count_ = 0;
  std::array<int, kEventsMax> from_;
  std::array<int, kEventsMax> place_{};
  std::array<int, kLocations> last_{};
  std::set<Result> results_;
};

// --- The machine

std::set<Result> Explored(const Program& program, const ExploreOptions& options,
                          ExploreResult* result) {
  std::set<Result> results;
  *result = Explore(
      [&](Exploration& run) {
        struct World {
          std::array<ModelAtomics::Atomic<int>, kLocations> memory;
          std::vector<std::vector<int>> read;
        };
        auto world = std::make_shared<World>();
        world->read.resize(program.size());
        for (size_t t = 0; t < program.size(); ++t) {
          run.Thread(std::to_string(t), [world, t, &program] {
            for (const Instruction& it : program[t]) {
              auto& at = world->memory[it.location];
              int value = -1;
              switch (it.kind) {
                case Kind::kLoad:
                  value = at.load(it.order);
                  break;
                case Kind::kStore:
                  at.store(it.value, it.order);
                  break;
                case Kind::kExchange:
                  value = at.exchange(it.value, it.order);
                  break;
                case Kind::kCompareExchange:
                  value = it.expected;
                  at.compare_exchange_strong(value, it.value, it.order, it.failed_order);
                  break;
              }
              world->read[t].push_back(value);
            }
          });
        }
        run.AtEnd([world, &results] {
          Result all;
          for (const auto& thread : world->read)
            all.insert(all.end(), thread.begin(), thread.end());
          for (const auto& at : world->memory) all.push_back(at.load(kRelaxed));
          results.insert(all);
        });
      },
      options);
  return results;
}

Program RandomProgram(std::mt19937& random, int threads, int events) {
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const int seq_cst_percent = pick(3) * 40;
  const auto order = [&](std::initializer_list<Order> orders) {
    if (pick(100) < seq_cst_percent) return kSeqCst;
    return *(orders.begin() + pick(static_cast<int>(orders.size())));
  };
  Program program(threads);
  for (int e = 0; e < events; ++e) {
    Instruction it{};
    it.location = pick(kLocations);
    it.value = e + 1;
    const int kind = pick(8);
    if (kind < 3) {
      it.kind = Kind::kLoad;
      it.order = order({kRelaxed, kAcquire});
    } else if (kind < 6) {
      it.kind = Kind::kStore;
      it.order = order({kRelaxed, kRelease});
    } else if (kind < 7) {
      it.kind = Kind::kExchange;
      it.order = order({kRelaxed, kAcquire, kRelease, kAcqRel});
    } else {
      it.kind = Kind::kCompareExchange;
      it.order = order({kRelaxed, kAcquire, kRelease, kAcqRel});
      it.failed_order = order({kRelaxed, kAcquire});
      it.expected = pick(events + 1);
    }
    program[e < threads ? e : pick(threads)].push_back(it);
  }
  return program;
}

int FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 1 : std::atoi(value);
}
unsigned Seed() { return static_cast<unsigned>(FromEnvironment("SEED")); }
int Scaled(int programs) { return programs * FromEnvironment("SCALE"); }

void Compare(int threads, int events, int programs, bool without_reductions) {
  std::mt19937 random(Seed());
  uint64_t executions = 0;
  for (int i = 0; i < Scaled(programs); ++i) {
    const Program program = RandomProgram(random, threads, events);
    SCOPED_TRACE("SEED=" + std::to_string(Seed()) + " program " + std::to_string(i) + "\n" +
                 ToString(program));
    const std::set<Result> allowed = Axioms(program).Results();
    for (const bool merge : {true, false}) {
      for (const bool reduce : {true, false}) {
        if (!(merge && reduce) && !without_reductions) continue;
        ExploreOptions options;
        options.merge_states = merge;
        options.reduce_orders = reduce;
        ExploreResult result;
        const std::set<Result> found = Explored(program, options, &result);
        ASSERT_TRUE(result.ok && result.complete) << ToString(result);
        ASSERT_EQ(found, allowed) << "merge " << merge << " reduce " << reduce << "\nfound\n"
                                  << ToString(found) << "allowed\n"
                                  << ToString(allowed);
        executions += result.executions;
      }
    }
  }
  ::testing::Test::RecordProperty("executions", static_cast<int>(executions));
}

// --- The rest, against the explorer without reductions

enum class Step {
  kLoad,
  kStore,
  kAdd,
  kCompareExchange,
  kGhostGet,
  kGhostSet,
  kSection,  // lock, touch what the lock guards, unlock
  kTrySection,
  kBlock,  // until an atomic or the ghost is not 0
  kBlockGhost,
  kPlain,  // touched if a load finds the flag set
  kPublish,
  kChoose,
  kForget,
};

struct World {
  std::array<ModelAtomics::Atomic<int>, kLocations> memory;
  ModelAtomics::Mutex mu;
  std::vector<int> guarded;  // by mu; not known to the explorer
  Ghost<int> ghost;
  ModelAtomics::Plain<int> plain = 0;
  std::vector<std::vector<int>> read;
};

struct Action {
  Step step;
  int location;
  int value;
  Order load;
  Order store;
};

void Act(World& world, int thread, const Action& action) {
  std::vector<int>& read = world.read[thread];
  auto& at = world.memory[action.location];
  switch (action.step) {
    case Step::kLoad:
      read.push_back(at.load(action.load));
      break;
    case Step::kStore:
      at.store(action.value, action.store);
      break;
    case Step::kAdd:
      read.push_back(at.fetch_add(action.value, action.store));
      break;
    case Step::kCompareExchange: {
      int expected = 0;
      read.push_back(at.compare_exchange_strong(expected, action.value, action.store, action.load));
      break;
    }
    case Step::kGhostGet:
      read.push_back(world.ghost.Get());
      break;
    case Step::kGhostSet:
      world.ghost.Set(action.value);
      break;
    case Step::kTrySection:
      if (!world.mu.TryLock()) {
        read.push_back(-2);
        break;
      }
      world.guarded.push_back(thread);
      world.mu.Unlock();
      break;
    case Step::kSection:
      world.mu.Lock();
      world.guarded.push_back(thread);
      if (action.value % 2 == 0) at.store(action.value, action.store);
      world.mu.Unlock();
      break;
    case Step::kBlock:
      BlockUntil([&] { return at.load(kRelaxed) != 0; });
      break;
    case Step::kBlockGhost:
      BlockUntil([&] { return world.ghost.Get() != 0; });
      break;
    case Step::kPlain:
      if (at.load(action.load) != 0) read.push_back(world.plain);
      break;
    case Step::kPublish:
      world.plain = action.value;
      at.store(action.value, action.store);
      break;
    case Step::kChoose:
      read.push_back(Choose(2));
      break;
    case Step::kForget:
      read.clear();
      RememberOnly();
      break;
  }
}

std::set<Result> Run(const std::vector<std::vector<Action>>& program, const ExploreOptions& options,
                     ExploreResult* result) {
  std::set<Result> results;
  *result = Explore(
      [&](Exploration& run) {
        auto world = run.Make<World>();
        world->read.resize(program.size());
        for (size_t t = 0; t < program.size(); ++t) {
          run.Thread(std::to_string(t), [world, t, &program] {
            for (const Action& it : program[t]) Act(*world, static_cast<int>(t), it);
          });
        }
        run.AtEnd([world, &results] {
          Result all;
          for (const auto& thread : world->read) {
            all.insert(all.end(), thread.begin(), thread.end());
            all.push_back(-9);
          }
          all.insert(all.end(), world->guarded.begin(), world->guarded.end());
          for (const auto& at : world->memory) all.push_back(at.load(kRelaxed));
          all.push_back(world->ghost.Get());
          results.insert(all);
        });
      },
      options);
  return results;
}

std::vector<std::vector<Action>> RandomActions(std::mt19937& random, int threads, int actions) {
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  // Few programs that mix everything find anything: most have some kinds of steps only.
  std::array<Step, 5> kinds;
  for (Step& kind : kinds) kind = static_cast<Step>(pick(static_cast<int>(Step::kForget) + 1));
  std::vector<std::vector<Action>> program(threads);
  for (int i = 0; i < actions; ++i) {
    const Order loads[] = {kRelaxed, kAcquire, kSeqCst};
    const Order stores[] = {kRelaxed, kRelease, kSeqCst};
    program[i < threads ? i : pick(threads)].push_back(
        {kinds[pick(5)], pick(kLocations), i + 1, loads[pick(3)], stores[pick(3)]});
  }
  return program;
}

void CompareWithoutReductions(int threads, int actions, int programs) {
  std::mt19937 random(Seed());
  int failed = 0;
  for (int i = 0; i < Scaled(programs); ++i) {
    const auto program = RandomActions(random, threads, actions);
    ExploreOptions options;
    options.executions_max = 100'000;
    options.merge_states = false;
    options.reduce_orders = false;
    ExploreResult plain;
    const std::set<Result> expected = Run(program, options, &plain);
    if (!plain.complete) continue;
    failed += plain.ok ? 0 : 1;
    for (const bool merge : {true, false}) {
      for (const bool reduce : {true, false}) {
        options.merge_states = merge;
        options.reduce_orders = reduce;
        ExploreResult reduced;
        const std::set<Result> found = Run(program, options, &reduced);
        std::string text;
        for (const auto& thread : program) {
          for (const Action& it : thread) {
            text += std::to_string(static_cast<int>(it.step)) + "(" + std::to_string(it.location) +
                    ") ";
          }
          text += "\n";
        }
        ASSERT_EQ(plain.ok, reduced.ok) << "SEED=" << Seed() << " program " << i << " merge "
                                        << merge << " reduce " << reduce << "\n"
                                        << text << plain.failure << reduced.failure;
        if (!plain.ok) continue;
        ASSERT_EQ(expected, found) << "SEED=" << Seed() << " program " << i << " merge " << merge
                                   << " reduce " << reduce << "\n"
                                   << text << "expected\n"
                                   << ToString(expected) << "found\n"
                                   << ToString(found);
      }
    }
  }
  ::testing::Test::RecordProperty("failed", failed);
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, 3 * Scaled(programs) / 4);  // or it compares too few results
}

TEST(MemoryModelRandomTest, ReductionsLoseNothingOfTwoThreads) {
  CompareWithoutReductions(2, 7, 300);
}
TEST(MemoryModelRandomTest, ReductionsLoseNothingOfThreeThreads) {
  CompareWithoutReductions(3, 7, 100);
}
TEST(MemoryModelRandomTest, TwoThreadsOfSixOperations) { Compare(2, 6, 300, true); }
TEST(MemoryModelRandomTest, ThreeThreadsOfSixOperations) { Compare(3, 6, 150, true); }
TEST(MemoryModelRandomTest, ThreeThreadsOfEightOperations) { Compare(3, 8, 50, false); }
TEST(MemoryModelRandomTest, FourThreadsOfSevenOperations) { Compare(4, 7, 80, false); }

}  // namespace
}  // namespace sched::testing
