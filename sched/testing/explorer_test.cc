// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/explorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace sched::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

using Order = std::memory_order;
constexpr Order kRelaxed = std::memory_order_relaxed;
constexpr Order kAcquire = std::memory_order_acquire;
constexpr Order kRelease = std::memory_order_release;
constexpr Order kAcqRel = std::memory_order_acq_rel;
constexpr Order kSeqCst = std::memory_order_seq_cst;

// --- Litmus tests: three atomics, and registers that each belong to one thread.

struct Memory {
  ModelAtomics::Atomic<int> x;
  ModelAtomics::Atomic<int> y;
  ModelAtomics::Atomic<int> z;
  int a = -1;
  int b = -1;
  int c = -1;
  int d = -1;
};
using Body = std::function<void(Memory&)>;
using Results = std::set<std::vector<int>>;

// All that `report` can see at the end.
Results Litmus(const std::vector<Body>& threads,
               const std::function<std::vector<int>(Memory&)>& report,
               const ExploreOptions& options = {}) {
  Results results;
  const ExploreResult result = Explore(
      [&](Exploration& run) {
        auto memory = std::make_shared<Memory>();
        for (size_t t = 0; t < threads.size(); ++t) {
          run.Thread("thread " + std::to_string(t), [memory, body = threads[t]] { body(*memory); });
        }
        run.AtEnd([memory, &report, &results] { results.insert(report(*memory)); });
      },
      options);
  EXPECT_TRUE(result.ok && result.complete) << ToString(result);
  return results;
}

std::vector<int> AB(Memory& m) { return {m.a, m.b}; }
std::vector<int> ABCD(Memory& m) { return {m.a, m.b, m.c, m.d}; }

Results StoreBuffering(Order store_x, Order load_y, Order store_y, Order load_x) {
  return Litmus({[=](Memory& m) {
                   m.x.store(1, store_x);
                   m.a = m.y.load(load_y);
                 },
                 [=](Memory& m) {
                   m.y.store(1, store_y);
                   m.b = m.x.load(load_x);
                 }},
                AB);
}

TEST(MemoryModelTest, SeqCstForbidsStoreBuffering) {
  EXPECT_THAT(StoreBuffering(kSeqCst, kSeqCst, kSeqCst, kSeqCst),
              UnorderedElementsAre(ElementsAre(0, 1), ElementsAre(1, 0), ElementsAre(1, 1)));
}

TEST(MemoryModelTest, EachOfTheFourWeakenedAllowsStoreBuffering) {
  const std::vector<int> both_old = {0, 0};
  EXPECT_THAT(StoreBuffering(kRelease, kSeqCst, kSeqCst, kSeqCst), Contains(both_old));
  EXPECT_THAT(StoreBuffering(kSeqCst, kAcquire, kSeqCst, kSeqCst), Contains(both_old));
  EXPECT_THAT(StoreBuffering(kSeqCst, kSeqCst, kRelease, kSeqCst), Contains(both_old));
  EXPECT_THAT(StoreBuffering(kSeqCst, kSeqCst, kSeqCst, kAcquire), Contains(both_old));
}

Results StoreBufferingWithUpdates(Order update_x, Order load_y, Order update_y, Order load_x) {
  return Litmus({[=](Memory& m) {
                   m.x.fetch_or(1, update_x);
                   m.a = m.y.load(load_y);
                 },
                 [=](Memory& m) {
                   m.y.exchange(1, update_y);
                   m.b = m.x.load(load_x);
                 }},
                AB);
}

TEST(MemoryModelTest, AnUpdateIsNoFence) {
  const std::vector<int> both_old = {0, 0};
  EXPECT_THAT(StoreBufferingWithUpdates(kSeqCst, kSeqCst, kSeqCst, kSeqCst),
              Not(Contains(both_old)));
  EXPECT_THAT(StoreBufferingWithUpdates(kAcqRel, kSeqCst, kSeqCst, kSeqCst), Contains(both_old));
  EXPECT_THAT(StoreBufferingWithUpdates(kSeqCst, kAcquire, kSeqCst, kSeqCst), Contains(both_old));
  EXPECT_THAT(StoreBufferingWithUpdates(kAcqRel, kAcquire, kAcqRel, kAcquire), Contains(both_old));
}

TEST(MemoryModelTest, ALoadReplacedByAnUpdateOfTheSameOrderSeesTheNewest) {
  // Store buffering is also forbidden if both threads *update* the same two atomics with acq_rel.
  const Results results = Litmus({[](Memory& m) {
                                    m.x.store(1, kRelaxed);
                                    m.z.fetch_add(1, kAcqRel);
                                    m.a = m.y.load(kRelaxed);
                                  },
                                  [](Memory& m) {
                                    m.y.store(1, kRelaxed);
                                    m.z.fetch_add(1, kAcqRel);
                                    m.b = m.x.load(kRelaxed);
                                  }},
                                 AB);
  EXPECT_THAT(results, Not(Contains(ElementsAre(0, 0))));
}

Results MessagePassing(Order store, Order load) {
  return Litmus({[=](Memory& m) {
                   m.x.store(1, kRelaxed);
                   m.y.store(1, store);
                 },
                 [=](Memory& m) {
                   m.a = m.y.load(load);
                   m.b = m.x.load(kRelaxed);
                 }},
                AB);
}

TEST(MemoryModelTest, ReleaseAndAcquirePassMessages) {
  const std::vector<int> stale = {1, 0};
  EXPECT_THAT(MessagePassing(kRelease, kAcquire), Not(Contains(stale)));
  EXPECT_THAT(MessagePassing(kRelaxed, kAcquire), Contains(stale));
  EXPECT_THAT(MessagePassing(kRelease, kRelaxed), Contains(stale));
}

TEST(MemoryModelTest, UpdatesContinueAReleaseSequenceAndStoresEndIt) {
  const auto with = [](const Body& between) {
    return Litmus({[](Memory& m) {
                     m.x.store(1, kRelaxed);
                     m.y.store(1, kRelease);
                   },
                   between,
                   [](Memory& m) {
                     m.a = m.y.load(kAcquire);
                     m.b = m.x.load(kRelaxed);
                   }},
                  AB);
  };
  const std::vector<int> stale = {3, 0};
  EXPECT_THAT(with([](Memory& m) { m.y.fetch_add(2, kRelaxed); }), Not(Contains(stale)));
  EXPECT_THAT(with([](Memory& m) {
                if (m.y.load(kRelaxed) == 1) m.y.store(3, kRelaxed);
              }),
              Contains(stale));
}

Results IndependentReads(Order store, Order load) {
  return Litmus({[=](Memory& m) { m.x.store(1, store); }, [=](Memory& m) { m.y.store(1, store); },
                 [=](Memory& m) {
                   m.a = m.x.load(load);
                   m.b = m.y.load(load);
                 },
                 [=](Memory& m) {
                   m.c = m.y.load(load);
                   m.d = m.x.load(load);
                 }},
                ABCD);
}

TEST(MemoryModelTest, OnlySeqCstMakesReadersAgreeOnTheOrderOfIndependentWrites) {
  const std::vector<int> disagree = {1, 0, 1, 0};
  EXPECT_THAT(IndependentReads(kSeqCst, kSeqCst), Not(Contains(disagree)));
  EXPECT_THAT(IndependentReads(kRelease, kAcquire), Contains(disagree));
  EXPECT_THAT(IndependentReads(kSeqCst, kAcquire), Contains(disagree));
}

TEST(MemoryModelTest, ReadsOfOneAtomicDoNotGoBackInTime) {
  const Results results =
      Litmus({[](Memory& m) { m.x.store(1, kRelaxed); }, [](Memory& m) { m.x.store(2, kRelaxed); },
              [](Memory& m) {
                m.a = m.x.load(kRelaxed);
                m.b = m.x.load(kRelaxed);
              },
              [](Memory& m) {
                m.c = m.x.load(kRelaxed);
                m.d = m.x.load(kRelaxed);
              }},
             ABCD);
  EXPECT_THAT(results, Not(Contains(ElementsAre(1, 2, 2, 1))));
  EXPECT_THAT(results, Contains(ElementsAre(2, 1, 2, 1)));
  EXPECT_THAT(results, Contains(ElementsAre(1, 2, 1, 2)));
}

TEST(MemoryModelTest, StoresMayTakeTheirPlaceBehindLaterOnes) {  // "2+2W"
  const auto with = [](Order order) {
    return Litmus({[=](Memory& m) {
                     m.x.store(1, order);
                     m.y.store(2, order);
                   },
                   [=](Memory& m) {
                     m.y.store(1, order);
                     m.x.store(2, order);
                   }},
                  [](Memory& m) {
                    return std::vector<int>{m.x.load(kRelaxed), m.y.load(kRelaxed)};
                  });
  };
  EXPECT_THAT(with(kRelease), Contains(ElementsAre(1, 1)));
  EXPECT_THAT(with(kSeqCst), Not(Contains(ElementsAre(1, 1))));
}

TEST(MemoryModelTest, UpdatesLoseNothing) {
  const Results results = Litmus({[](Memory& m) { m.a = m.x.fetch_add(1, kRelaxed); },
                                  [](Memory& m) { m.b = m.x.fetch_add(1, kRelaxed); }},
                                 [](Memory& m) {
                                   return std::vector<int>{m.a, m.b, m.x.load(kRelaxed)};
                                 });
  EXPECT_THAT(results, UnorderedElementsAre(ElementsAre(0, 1, 2), ElementsAre(1, 0, 2)));
}

TEST(MemoryModelTest, AFailedCompareExchangeIsALoadOfItsOwnOrder) {
  const auto with = [](Order failed) {
    return Litmus({[](Memory& m) {
                     m.x.store(1, kRelaxed);
                     m.y.store(1, kRelease);
                   },
                   [=](Memory& m) {
                     int expected = 7;
                     m.y.compare_exchange_strong(expected, 8, kSeqCst, failed);
                     m.a = expected;
                     m.b = m.x.load(kRelaxed);
                   }},
                  AB);
  };
  EXPECT_THAT(with(kAcquire),
              UnorderedElementsAre(ElementsAre(0, 0), ElementsAre(0, 1), ElementsAre(1, 1)));
  EXPECT_THAT(with(kRelaxed), Contains(ElementsAre(1, 0)));
}

TEST(MemoryModelTest, OfTwoCompareExchangesOneWins) {
  const auto once = [](Memory& m, int* won) {
    int expected = 0;
    *won = m.x.compare_exchange_strong(expected, 1, kAcqRel) ? 1 : 0;
  };
  EXPECT_THAT(Litmus({[&](Memory& m) { once(m, &m.a); }, [&](Memory& m) { once(m, &m.b); }}, AB),
              UnorderedElementsAre(ElementsAre(0, 1), ElementsAre(1, 0)));
}

// [x = 1 seq_cst; y = 1 release], [y acquired; z = 1 seq_cst], [z = 2 seq_cst; x]: what happens
// before a seq_cst operation, with steps in between on both sides, precedes it in S although z = 2
// does not synchronise with z = 1.
Results OrderThroughRelease(bool through_an_update) {
  std::vector<Body> threads = {[](Memory& m) {
                                 m.x.store(1, kSeqCst);
                                 m.y.store(1, kRelease);
                               },
                               [=](Memory& m) {
                                 m.a = m.y.load(kAcquire);
                                 if (m.a == (through_an_update ? 2 : 1)) m.z.store(1, kSeqCst);
                               },
                               [](Memory& m) {
                                 m.z.store(2, kSeqCst);
                                 m.b = m.x.load(kSeqCst);
                               }};
  if (through_an_update) threads.push_back([](Memory& m) { m.y.fetch_add(1, kRelaxed); });
  return Litmus(threads, [](Memory& m) { return std::vector<int>{m.a, m.b, m.z.load(kRelaxed)}; });
}

TEST(MemoryModelTest, SeqCstAgreesWithHappensBefore) {
  EXPECT_THAT(OrderThroughRelease(false), Not(Contains(ElementsAre(1, 0, 2))));
  EXPECT_THAT(OrderThroughRelease(false), Contains(ElementsAre(1, 0, 1)));
  EXPECT_THAT(OrderThroughRelease(true), Not(Contains(ElementsAre(2, 0, 2))));
  EXPECT_THAT(OrderThroughRelease(true), Contains(ElementsAre(2, 0, 1)));
}

TEST(MemoryModelTest, SeqCstNeedNotAgreeWithHappensBeforeAtOnce) {
  // The example of P0668: C++11 forbade it, C++20 allows it, POWER does it.
  const Results results = Litmus({[](Memory& m) {
                                    m.x.store(1, kSeqCst);
                                    m.y.store(1, kRelease);
                                  },
                                  [](Memory& m) {
                                    m.a = m.y.fetch_add(1, kSeqCst);
                                    m.b = m.y.load(kRelaxed);
                                  },
                                  [](Memory& m) {
                                    m.y.store(3, kSeqCst);
                                    m.c = m.x.load(kSeqCst);
                                  }},
                                 [](Memory& m) {
                                   return std::vector<int>{m.a, m.b, m.c};
                                 });
  EXPECT_THAT(results, Contains(ElementsAre(1, 3, 0)));
}

TEST(MemoryModelTest, ARelaxedStoreMayOvertakeASeqCstOne) {
  const Results results = Litmus({[](Memory& m) {
                                    m.x.store(1, kSeqCst);
                                    m.y.store(1, kRelaxed);
                                  },
                                  [](Memory& m) {
                                    m.a = m.y.load(kRelaxed);
                                    m.b = m.x.load(kSeqCst);
                                  }},
                                 AB);
  EXPECT_THAT(results, Contains(ElementsAre(1, 0)));
}

// --- The explorer

TEST(ExplorerTest, CountsOfATinyProgram) {
  const auto scenario = [](Exploration& run) {
    auto memory = std::make_shared<std::array<ModelAtomics::Atomic<int>, 4>>();
    for (int t = 0; t < 2; ++t) {
      run.Thread(std::to_string(t), [memory, t] {
        (*memory)[2 * t].store(1, kRelaxed);
        (*memory)[2 * t + 1].store(1, kRelaxed);
      });
    }
  };
  ExploreOptions options;
  options.merge_states = false;
  options.reduce_orders = false;
  EXPECT_EQ(Explore(scenario, options).executions, 6u);  // 4 over 2
  options.merge_states = true;
  EXPECT_EQ(Explore(scenario, options).states, 9u);  // 3 × 3
  options.reduce_orders = true;
  EXPECT_EQ(Explore(scenario, options).executions, 1u);
  options.preemption_bound = 0;
  options.merge_states = false;
  const ExploreResult bounded = Explore(scenario, options);
  EXPECT_EQ(bounded.executions, 2u);
  EXPECT_TRUE(bounded.bounded);
}

TEST(ExplorerTest, StopsAtTheLimitOfExecutions) {
  ExploreOptions options;
  options.executions_max = 2;
  const ExploreResult result = Explore(
      [](Exploration& run) {
        auto memory = std::make_shared<Memory>();
        for (const char* name : {"a", "b", "c"}) {
          run.Thread(name, [memory] { memory->x.fetch_add(1, kRelaxed); });
        }
      },
      options);
  EXPECT_TRUE(result.ok);
  EXPECT_FALSE(result.complete);
  EXPECT_EQ(result.executions, 2u);
}

template <class Atomics>
struct Publication {
  typename Atomics::template Atomic<bool> ready;
  typename Atomics::template Plain<int> data = 0;
};

ExploreResult Publish(Order store, Order load) {
  return Explore([=](Exploration& run) {
    auto world = std::make_shared<Publication<ModelAtomics>>();
    Label(world->data, "data");
    run.Thread("writer", [=] {
      world->data = 42;
      world->ready.store(true, store);
    });
    run.Thread("reader", [=] {
      if (world->ready.load(load)) Expect(world->data == 42, "published");
    });
  });
}

TEST(ExplorerTest, FindsDataRaces) {
  EXPECT_TRUE(Publish(kRelease, kAcquire).ok);
  const ExploreResult race = Publish(kRelaxed, kAcquire);
  EXPECT_FALSE(race.ok);
  EXPECT_THAT(race.failure, HasSubstr("data race: reader reads data, and nothing orders that after "
                                      "the write by writer"));
  EXPECT_THAT(race.failure, HasSubstr("writer       data.write <- 42\n"));
  EXPECT_THAT(race.failure,
              HasSubstr("reader       atomic#0.load(acquire) = 1   explorer_test.cc:"));
  EXPECT_FALSE(Publish(kRelease, kRelaxed).ok);
}

TEST(ExplorerTest, FindsWritesThatRaceWithReads) {
  const auto result = [](Order order) {
    return Explore([=](Exploration& run) {
      auto world = std::make_shared<Publication<ModelAtomics>>();
      run.Thread("reader", [=] {
        const int seen = world->data;
        Expect(seen == 0, "not yet");
        world->ready.store(true, order);
      });
      run.Thread("writer", [=] {
        if (world->ready.load(kAcquire)) world->data = 1;
      });
    });
  };
  EXPECT_TRUE(result(kRelease).ok);
  EXPECT_THAT(result(kRelaxed).failure, HasSubstr("writer writes plain#1, and nothing orders that "
                                                  "after the access by reader"));
}

TEST(ExplorerTest, FindsUseBeforeConstructionIsPublished) {
  const auto result = [](Order order) {
    return Explore([=](Exploration& run) {
      struct World {
        ModelAtomics::Atomic<ModelAtomics::Atomic<int>*> pointer;
        std::unique_ptr<ModelAtomics::Atomic<int>> owner;
      };
      auto world = std::make_shared<World>();
      run.Thread("maker", [=] {
        world->owner = std::make_unique<ModelAtomics::Atomic<int>>(1);
        world->pointer.store(world->owner.get(), order);
      });
      run.Thread("user", [=] {
        auto* made = world->pointer.load(kAcquire);
        if (made != nullptr) Expect(made->load(kRelaxed) == 1, "constructed");
      });
    });
  };
  EXPECT_TRUE(result(kRelease).ok);
  EXPECT_THAT(result(kRelaxed).failure,
              HasSubstr("atomic#0 of maker is used by user before its construction is known"));
}

TEST(ExplorerTest, FailuresSayWhereAndShowTheSteps) {
  const ExploreResult result = Explore([](Exploration& run) {
    auto memory = std::make_shared<Memory>();
    Label(memory->x, "x");
    run.Thread("a", [=] { memory->x.store(5, kRelaxed); });
    run.Thread("b", [=] {
      memory->x.store(6, kRelaxed);
      Expect(memory->x.load(kRelaxed) == 6, "mine");
    });
  });
  EXPECT_FALSE(result.ok);
  EXPECT_TRUE(result.complete);
  EXPECT_THAT(result.failure, HasSubstr("b: mine (explorer_test.cc:"));
  EXPECT_THAT(result.failure, HasSubstr("a            x.store(relaxed) <- 5"));
}

TEST(ExplorerTest, ChecksTheEnd) {
  const ExploreResult result = Explore([](Exploration& run) {
    auto memory = std::make_shared<Memory>();
    run.Thread("a", [=] { memory->x.store(memory->x.load(kSeqCst) + 1, kSeqCst); });
    run.Thread("b", [=] { memory->x.store(memory->x.load(kSeqCst) + 1, kSeqCst); });
    run.AtEnd([=] { Expect(memory->x.load(kRelaxed) == 2, "both counted"); });
  });
  EXPECT_THAT(result.failure, HasSubstr("at the end: both counted"));
}

TEST(ExplorerTest, MutexesExcludeAndPublish) {
  const ExploreResult result = Explore([](Exploration& run) {
    struct World {
      ModelMutex mu;
      ModelPlain<int> count = 0;
      std::vector<int> order;  // guarded by mu, unknown to the explorer
    };
    auto world = std::make_shared<World>();
    for (int t = 0; t < 3; ++t) {
      run.Thread(std::to_string(t), [=] {
        if (t < 2) {
          world->mu.Lock();
        } else if (!world->mu.TryLock()) {
          return;
        }
        ++world->count;
        world->order.push_back(t);
        world->mu.Unlock();
      });
    }
    run.AtEnd([=] { Expect(world->count == static_cast<int>(world->order.size()), "counted"); });
  });
  EXPECT_TRUE(result.ok && result.complete) << result.failure;
}

TEST(ExplorerTest, AllOrdersOfCriticalSectionsReachTheEnd) {
  std::set<std::vector<int>> orders;
  const ExploreResult result = Explore([&](Exploration& run) {
    struct World {
      ModelMutex mu;
      std::vector<int> order;
    };
    auto world = std::make_shared<World>();
    for (int t = 0; t < 3; ++t) {
      run.Thread(std::to_string(t), [=] {
        world->mu.Lock();
        world->order.push_back(t);
        world->mu.Unlock();
      });
    }
    run.AtEnd([world, &orders] { orders.insert(world->order); });
  });
  EXPECT_TRUE(result.ok && result.complete) << result.failure;
  EXPECT_EQ(orders.size(), 6u);
}

TEST(ExplorerTest, FindsDeadlocksOfMutexes) {
  const ExploreResult result = Explore([](Exploration& run) {
    auto mutexes = std::make_shared<std::array<ModelMutex, 2>>();
    for (int t = 0; t < 2; ++t) {
      run.Thread(std::to_string(t), [=] {
        (*mutexes)[t].Lock();
        (*mutexes)[1 - t].Lock();
        (*mutexes)[1 - t].Unlock();
        (*mutexes)[t].Unlock();
      });
    }
  });
  EXPECT_THAT(result.failure, HasSubstr("deadlock"));
  EXPECT_THAT(result.failure, HasSubstr("0 is before: Lock mutex#1"));
}

// A sleeper announces itself and looks once more; a waker leaves work and looks for sleepers.
template <class Atomics>
void SleepAndWake(Exploration& run) {
  struct World {
    typename Atomics::template Atomic<bool> asleep;
    typename Atomics::template Atomic<bool> work;
    Ghost<bool> woken;
  };
  auto world = std::make_shared<World>();
  run.Thread("sleeper", [=] {
    world->asleep.store(true, kSeqCst);
    if (world->work.load(kSeqCst)) return;
    BlockUntil([&] { return world->woken.Get(); });
  });
  run.Thread("waker", [=] {
    world->work.store(true, kSeqCst);
    if (world->asleep.load(kSeqCst)) world->woken.Set(true);
  });
}

TEST(ExplorerTest, FindsLostWakeUps) {
  const ExploreResult shipped = Explore(SleepAndWake<ModelAtomics>);
  EXPECT_TRUE(shipped.ok && shipped.complete) << shipped.failure;
  const ExploreResult weakened = Explore(SleepAndWake<WeakenedAtomics>);
  EXPECT_THAT(weakened.failure, HasSubstr("deadlock: no thread can go on (a lost wake-up?)"));
  EXPECT_THAT(weakened.failure, HasSubstr("sleeper is before: BlockUntil"));
  EXPECT_THAT(weakened.failure, HasSubstr("waker        atomic#0.load(acquire) = 0  [1 newer]"));
}

TEST(ExplorerTest, TellsWhichOrdersAreNeeded) {
  std::vector<std::string> needed;
  for (const Weakening& it : ExploreWeakenings(SleepAndWake<ModelAtomics>, false)) {
    EXPECT_EQ(it.site.order, kSeqCst);
    EXPECT_FALSE(it.result.ok) << ToString(it.site);
    needed.push_back(it.site.object);
  }
  EXPECT_THAT(needed, UnorderedElementsAre("atomic#0", "atomic#0", "atomic#1", "atomic#1"));

  const auto publish = [](Exploration& run) {
    auto world = std::make_shared<Publication<ModelAtomics>>();
    run.Thread("writer", [=] {
      world->data = 1;
      world->ready.store(true, kSeqCst);
    });
    run.Thread("reader", [=] {
      if (world->ready.load(kAcquire)) Expect(world->data == 1, "published");
    });
  };
  const std::vector<Weakening> all = ExploreWeakenings(publish, true);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].order, kRelease);
  EXPECT_TRUE(all[0].result.ok) << "release would do";
  EXPECT_EQ(all[1].order, kRelaxed);
  EXPECT_FALSE(all[1].result.ok) << "relaxed would not";
  EXPECT_FALSE(all[2].result.ok) << "acquire is needed";
}

TEST(ExplorerTest, WeakensOneOfSeveralObjectsAtOneLine) {
  int asked = 0;
  ExploreOptions options;
  options.weaken = [&](const Site& site) {
    ++asked;
    return site.object == "flag" && site.thread == "writer" && site.operation_index == 1
               ? kRelaxed
               : site.order;
  };
  const ExploreResult result = Explore(
      [](Exploration& run) {
        auto world = std::make_shared<Publication<ModelAtomics>>();
        Label(world->ready, "flag");
        run.Thread("writer", [=] {
          world->ready.load(kRelaxed);
          world->data = 1;
          world->ready.store(true, kRelease);
        });
        run.Thread("reader", [=] {
          if (world->ready.load(kAcquire)) Expect(world->data == 1, "published");
        });
      },
      options);
  EXPECT_FALSE(result.ok);
  EXPECT_GT(asked, 0);
}

TEST(ExplorerTest, PassingABlockUntilDoesNotSynchronise) {
  const auto result = [](Order order) {
    return Explore([=](Exploration& run) {
      auto world = std::make_shared<Publication<ModelAtomics>>();
      run.Thread("writer", [=] {
        world->data = 1;
        world->ready.store(true, kRelease);
      });
      run.Thread("reader", [=] {
        BlockUntil([&] { return world->ready.load(kRelaxed); });
        Expect(world->ready.load(order), "newest");
        Expect(world->data == 1, "published");
      });
    });
  };
  EXPECT_TRUE(result(kAcquire).ok) << result(kAcquire).failure;
  EXPECT_THAT(result(kRelaxed).failure, HasSubstr("data race"));
}

TEST(ExplorerTest, ChoicesAreExplored) {
  std::set<std::vector<int>> seen;
  const ExploreResult result = Explore([&](Exploration& run) {
    auto chosen = std::make_shared<std::vector<int>>(2);
    for (int t = 0; t < 2; ++t) {
      run.Thread(std::to_string(t), [=] { (*chosen)[t] = Choose(3); });
    }
    run.AtEnd([chosen, &seen] { seen.insert(*chosen); });
  });
  EXPECT_TRUE(result.ok && result.complete);
  EXPECT_EQ(seen.size(), 9u);
}

TEST(ExplorerTest, GhostsAreStepsThatSeeTheNewestValue) {
  std::set<int> seen;
  const ExploreResult result = Explore([&](Exploration& run) {
    struct World {
      Ghost<int> ghost;
      int read = 0;
    };
    auto world = std::make_shared<World>();
    run.Thread("a", [=] {
      world->ghost.Set(1);
      world->ghost.Set(2);
    });
    run.Thread("b", [=] { world->read = world->ghost.Get(); });
    run.AtEnd([world, &seen] { seen.insert(world->read); });
  });
  EXPECT_TRUE(result.ok && result.complete);
  EXPECT_THAT(seen, UnorderedElementsAre(0, 1, 2));
}

TEST(ExplorerTest, AnExecutionThatNeverEndsFails) {
  const ExploreResult result = Explore([](Exploration& run) {
    auto memory = std::make_shared<Memory>();
    run.Thread("spins", [=] {
      while (memory->x.load(kRelaxed) == 0) {
      }
    });
  });
  EXPECT_THAT(result.failure, HasSubstr("does a thread spin?"));
}

TEST(ExplorerTest, NoticesAScenarioThatIsNotDeterministic) {
  int call = 0;
  const ExploreResult result = Explore([&](Exploration& run) {
    auto memory = std::make_shared<Memory>();
    const bool odd = ++call % 2 == 1;
    run.Thread("a", [=] { odd ? memory->x.store(1, kRelaxed) : memory->y.store(1, kRelaxed); });
    run.Thread("b", [=] { memory->x.load(kRelaxed); });
    run.Thread("c", [=] { memory->x.load(kRelaxed); });
  });
  EXPECT_THAT(result.failure, HasSubstr("not deterministic"));
}

TEST(ExplorerTest, ExecutionsThatAreGivenUpUnwindTheirThreads) {
  struct Counted {
    explicit Counted(int* live) : live(live) { ++*live; }
    ~Counted() { --*live; }
    int* live;
  };
  int live = 0;
  const ExploreResult result = Explore([&](Exploration& run) {
    auto memory = std::make_shared<Memory>();
    auto mu = std::make_shared<ModelMutex>();
    for (int t = 0; t < 3; ++t) {
      run.Thread(std::to_string(t), [=, &live] {
        Counted counted(&live);
        struct Holder {
          explicit Holder(ModelMutex& mu) : mu(mu) { mu.Lock(); }
          ~Holder() { mu.Unlock(); }
          ModelMutex& mu;
        } holder(*mu);
        memory->x.fetch_add(t, kRelaxed);
        memory->x.load(kRelaxed);
      });
    }
  });
  EXPECT_TRUE(result.ok && result.complete) << result.failure;
  EXPECT_EQ(live, 0);
}

TEST(ExplorerTest, AddressesDoNotKeepStatesApart) {
  std::vector<std::unique_ptr<int>> kept;  // so that every execution gets other addresses
  uint64_t states[2];
  for (const bool fresh : {false, true}) {
    int fixed[2];
    states[fresh] = Explore([&](Exploration& run) {
                      auto top = std::make_shared<ModelAtomics::Atomic<int*>>();
                      for (int t = 0; t < 2; ++t) {
                        int* node = &fixed[t];
                        if (fresh) node = kept.emplace_back(std::make_unique<int>()).get();
                        run.Thread(std::to_string(t), [=] {
                          int* old = top->exchange(node, kAcqRel);
                          top->store(old, kRelease);
                          top->load(kAcquire);
                        });
                      }
                    }).states;
  }
  EXPECT_EQ(states[0], states[1]);
}

TEST(ExplorerTest, AddressesInTheWorldMeanTheSameInEveryExecution) {
  struct Node {
    int value = 0;
  };
  struct World {
    ModelAtomics::Atomic<Node*> top;
    std::array<Node, 3> nodes;
  };
  std::vector<std::unique_ptr<char[]>> kept;
  uint64_t states[2];
  for (const bool move : {false, true}) {
    states[move] = Explore([&](Exploration& run) {
                     if (move) kept.push_back(std::make_unique<char[]>(sizeof(World)));
                     auto world = run.Make<World>();
                     for (int t = 0; t < 3; ++t) {
                       run.Thread(std::to_string(t), [=] {
                         Node* old = world->top.exchange(&world->nodes[t], kAcqRel);
                         world->top.compare_exchange_strong(old, nullptr, kAcqRel);
                       });
                     }
                   }).states;
  }
  EXPECT_EQ(states[0], states[1]);
}

// Two threads that count in turn with compare_exchange, `rounds` times each.
ExploreResult Count(int rounds, bool forget, bool forget_too_much) {
  return Explore([=](Exploration& run) {
    struct World {
      ModelAtomics::Atomic<int> count;
      ModelAtomics::Atomic<int> retries;
    };
    auto world = run.Make<World>();
    for (int t = 0; t < 2; ++t) {
      run.Thread(std::to_string(t), [=] {
        bool retried = false;
        for (int i = 0; i < rounds; ++i) {
          int seen = world->count.load(kAcquire);
          while (!world->count.compare_exchange_strong(seen, seen + 1, kAcqRel, kAcquire))
            retried = true;
          if (forget && forget_too_much) RememberOnly();
          if (forget && !forget_too_much) RememberOnly({retried});
        }
        if (retried) world->retries.fetch_add(1, kRelaxed);
      });
    }
    run.AtEnd([=] {
      Expect(world->count.load(kRelaxed) == 2 * rounds, "all counted");
      Expect(forget_too_much || world->retries.load(kRelaxed) <= 2, "once each");
    });
  });
}

TEST(ExplorerTest, StatesMergeWhereThreadsForget) {
  const ExploreResult all = Count(4, false, false);
  const ExploreResult less = Count(4, true, false);
  EXPECT_TRUE(all.ok && all.complete && less.ok && less.complete);
  EXPECT_LT(less.states, all.states / 3);
}

// What follows it would work on objects that no longer answer, and might never end.
TEST(ExplorerTest, AFailedCheckAtTheEndIsLeftAtOnce) {
  const ExploreResult result = Explore([](Exploration& run) {
    auto word = run.Make<ModelAtomics::Atomic<int>>();
    run.Thread("idler", [] {});
    run.AtEnd([=] {
      Expect(word->load(kSeqCst) == 1, "somebody stored");
      for (int seen = 0; !word->compare_exchange_strong(seen, seen + 1, kSeqCst);) {
      }
    });
  });
  EXPECT_THAT(result.failure, HasSubstr("at the end: somebody stored"));
}

TEST(ExplorerTest, HooksOfTheCodeUnderTestCanFailTheExploration) {
  EXPECT_FALSE(InVirtualThread());
  const ExploreResult result = Explore([](Exploration& run) {
    run.Thread("checks", [] {
      EXPECT_TRUE(InVirtualThread());
      Fail("CHECK failed");
    });
  });
  EXPECT_THAT(result.failure, HasSubstr("CHECK failed"));
}

// About the size of a real protocol.
TEST(ExplorerTest, FourThreadsThatChangeTheSameWords) {
  const ExploreResult result = Explore([](Exploration& run) {
    struct World {
      std::array<ModelAtomics::Atomic<int>, 2> announced;
      ModelAtomics::Atomic<int> lock;
      ModelAtomics::Atomic<int> turns;
      ModelAtomics::Plain<int> owner = -1;
    };
    auto world = run.Make<World>();
    for (int t = 0; t < 2; ++t) {
      run.Thread("watcher " + std::to_string(t), [=] {
        world->announced[t].load(kSeqCst);
        if (world->lock.load(kAcquire) == 0) world->announced[1 - t].load(kSeqCst);
      });
    }
    for (int t = 0; t < 2; ++t) {
      run.Thread(std::to_string(t), [=] {
        world->announced[t % 2].fetch_or(1 << t, kSeqCst);
        world->announced[1 - t % 2].load(kSeqCst);
        RememberOnly();
        int free = 0;
        const bool locked = world->lock.compare_exchange_strong(free, t + 1, kAcqRel, kRelaxed);
        RememberOnly({locked});
        if (locked) {
          world->owner = t;
          world->turns.fetch_add(1, kRelaxed);
          Expect(world->owner == t, "exclusive");
          world->lock.store(0, kRelease);
        }
        RememberOnly();
        world->announced[t % 2].fetch_and(~(1 << t), kSeqCst);
      });
    }
  });
  EXPECT_TRUE(result.ok && result.complete) << ToString(result);
  printf("%s\n", ToString(result).c_str());
}

}  // namespace
}  // namespace sched::testing
