// SPDX-License-Identifier: Apache-2.0
//
// A name whose addresses a fiber asks for again and again, and the routes that are told of them.
#ifndef PARKWAY_SERVER_NAME_WATCH_H_
#define PARKWAY_SERVER_NAME_WATCH_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "netpoll/conn.h"
#include "netpoll/poller.h"
#include "sched/mutex.h"
#include "server/discovery.h"
#include "server/question.h"
#include "server/resolver.h"

namespace parkway {

class NameWatch {
 public:
  // Who is told. Outlives its subscription.
  class User {
   public:
    // These are the addresses from now on. Any thread; must not block.
    virtual void SetAddresses(const Question& question, const std::vector<Found>& found) = 0;

   protected:
    ~User() = default;
  };
  // The daemon. Outlives the watch.
  class Owner {
   public:
    virtual netpoll::Poller& poller() = 0;
    virtual Resolver& resolver() = 0;
    // Any thread.
    virtual uint64_t Random() = 0;
    virtual void Report(const std::string& line) = 0;
    // A watch knows for the first time what its name stands for, or that it cannot be known now.
    // Any thread; must not block.
    virtual void NameAnswered() = 0;

   protected:
    ~Owner() = default;
  };

  NameWatch(const Question& question, const Discovery::Bounds& bounds, Owner& owner)
      : question_(question), owner_(owner), discovery_(bounds) {}
  NameWatch(const NameWatch&) = delete;
  NameWatch& operator=(const NameWatch&) = delete;

  const Question& question() const { return question_; }

  // Asks, and sleeps, until Stop. Blocks the fiber. Call it once.
  void Run();
  // Ends Run soon, also if it has not begun. From any fiber; never blocks.
  void Stop();
  // Run has returned. Any thread: then nobody uses this any more.
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // There was an answer, or none was to be had. Any thread.
  bool answered() const { return answered_.load(std::memory_order_acquire); }

  // What is known now. Any thread.
  std::vector<Found> current();
  // Tells what is known now, and from here on each change. Any thread.
  void Subscribe(User& user);
  void Unsubscribe(const User& user);

 private:
  void Ask();
  void ReportChange(const Discovery::Change& change, size_t count);
  bool Sleep();

  const Question question_;
  Owner& owner_;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> answered_{false};
  std::atomic<bool> ended_{false};  // released; who finds it may destroy this

  sched::Mutex mu_;  // held while users are told, which take their own lock
  Discovery discovery_ ABSL_GUARDED_BY(mu_);
  std::vector<User*> users_ ABSL_GUARDED_BY(mu_);
  netpoll::Conn* timer_ ABSL_GUARDED_BY(mu_) = nullptr;  // with which it sleeps
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_NAME_WATCH_H_
