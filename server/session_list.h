// SPDX-License-Identifier: Apache-2.0
//
// The sessions that exist, so that they can be counted, awaited and closed.
#ifndef PARKWAY_SERVER_SESSION_LIST_H_
#define PARKWAY_SERVER_SESSION_LIST_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "sched/clock.h"
#include "sched/mutex.h"
#include "server/end_reason.h"
#include "server/session.h"

namespace parkway {

// Sharded by worker, so that opening a session shares no lock with the other workers.
class SessionList {
 public:
  explicit SessionList(int workers) : shards_(workers) {}
  ~SessionList();  // CHECKs that it is empty

  // The worker to start it on: the calling one, unless another has far fewer sessions (kFew and a
  // quarter of its own). One is compared, each in its turn: the kernel spreads connections well by
  // itself, and looking at all would touch a cache line of each. It counts for that worker until
  // Add, then for the one that calls that, until Remove.
  int Place(Session* session, uint32_t turn);
  static constexpr int64_t kFew = 16;
  // The calling worker.
  int PlaceHere(Session* session);

  // By the calling worker. From here on EndAll finds it.
  void Add(Session* session);
  // Before it is freed; counts how it ended.
  void Remove(Session* session);
  // A client that never became a session.
  void CountUnserved(EndReason reason) {
    ended_[static_cast<int>(reason)].fetch_add(1, std::memory_order_relaxed);
  }

  // Tells every session to end. Worker only; never parks.
  void EndAll(EndReason reason) {
    EndWhere(reason, [](const Session& /*session*/) { return true; });
  }
  // Those of one backend; not those that only connect to it, which may still go to another.
  void EndOf(const Upstream& upstream, EndReason reason) {
    EndWhere(reason, [&](Session& session) {
      return session.upstream() == &upstream && !session.connecting();
    });
  }

  // Calls each(session) for those of a worker's that were connected and not logged for `every` at
  // `now`, at most kLoggedAtOnce, under the lock: it must not block. True: there may be more. A
  // second more or less. Any worker.
  template <class Each>
  bool ForEachToLog(int worker, sched::Deadline now, sched::Duration every, Each each) {
    Shard& shard = shards_[worker];
    sched::MutexLock lock(shard.mu);
    for (int i = 0; i < kLoggedAtOnce; ++i) {
      Session* const session = shard.first;
      if (session == nullptr || NextLogOf(*session, every) > now) return false;
      if (!session->connecting()) each(*session);
      NoteLogged(*session, now);
      Unlink(shard, session);
      Append(shard, session);
    }
    return true;
  }
  static constexpr int kLoggedAtOnce = 16;

  int64_t ended(EndReason reason) const {
    return ended_[static_cast<int>(reason)].load(std::memory_order_relaxed);
  }

 private:
  template <class Meant>
  void EndWhere(EndReason reason, Meant meant) {
    for (Shard& shard : shards_) {
      // Closing takes the parking lot's lock and queues fibers; neither ever takes this one.
      sched::MutexLock lock(shard.mu);
      for (Session* session = shard.first; session != nullptr; session = session->next) {
        if (meant(*session)) session->End(reason);
      }
    }
  }
  // The list is in their order, since all begin at its end and go back there.
  static sched::Deadline NextLogOf(const Session& session, sched::Duration every) {
    return session.facts().began + std::chrono::seconds(session.logged_s) + every;
  }
  static void NoteLogged(Session& session, sched::Deadline now) {
    const auto age = std::chrono::duration_cast<std::chrono::seconds>(now - session.facts().began);
    session.logged_s = static_cast<uint32_t>(age.count());
  }
  void CountOn(Session* session, int worker);
  void CountOut(const Session* session);

  struct alignas(64) Shard {
    std::atomic<int64_t> placed{0};  // relaxed: placing may go by an old count
    sched::Mutex mu;
    Session* first ABSL_GUARDED_BY(mu) = nullptr;
    Session* last ABSL_GUARDED_BY(mu) = nullptr;
  };

  static void Append(Shard& shard, Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  static void Unlink(Shard& shard, Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);

  std::vector<Shard> shards_;
  std::array<std::atomic<int64_t>, kEndReasons> ended_{};  // statistics
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_SESSION_LIST_H_
