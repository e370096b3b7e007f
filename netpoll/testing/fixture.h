// SPDX-License-Identifier: Apache-2.0
//
// A poller and a scheduler with as many workers as the test's parameter says. The test's own thread
// directs: it starts fibers on the workers it names, waits until they are parked, and goes on.
// TearDown checks that no fiber, stack, PollDesc or descriptor is left; a test that hangs says so
// and dies.
#ifndef PARKWAY_NETPOLL_TESTING_FIXTURE_H_
#define PARKWAY_NETPOLL_TESTING_FIXTURE_H_

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <string_view>

#include "netpoll/conn.h"
#include "netpoll/io_result.h"
#include "netpoll/kernel.h"
#include "netpoll/listener.h"
#include "netpoll/poller.h"
#include "netpoll/testing/raw_socket.h"
#include "sched/clock.h"
#include "sched/fibers.h"
#include "sched/host.h"
#include "sched/scheduler.h"

namespace netpoll {

// Sanitizers make everything several times slower, and the machine may be busy.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
// How late something may be that should come at once, so that a busy machine fails no test: more
// than any hiccup, less than the wait it would have been.
inline constexpr sched::Duration kAtOnce = std::chrono::seconds(kSanitized ? 10 : 5);

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// On fibers: one Read as text (empty with *result saying why), and exactly `size` bytes.
std::string ReadText(Conn& conn, size_t buffer_bytes, IoResult* result);
std::string ReadExactly(Conn& conn, size_t size, IoResult* result);
// Up to the end; *result says how it ended.
std::string ReadToEnd(Conn& conn, IoResult* result);

std::ostream& operator<<(std::ostream& out, IoStatus status);
std::ostream& operator<<(std::ostream& out, const IoResult& result);

// The number of descriptors this process has open.
int OpenDescriptors();

class NetpollTest : public testing::TestWithParam<int> {
 protected:
  // A connection under test and the plain socket at its other end.
  struct End {
    Conn& conn;
    int fd;  // of conn
    RawSocket peer;
  };

  void SetUp() override;
  void TearDown() override;

  int workers() const { return GetParam(); }
  // Another worker than 0, where there is one.
  int Elsewhere() const { return workers() - 1; }

  // Called by whatever needs it, when the test does not want options.
  void Start(KernelCalls* calls = nullptr, sched::Scheduler::Options options = {});
  Poller& poller();
  sched::Scheduler& scheduler();

  // --- For the test's own thread.

  // Starts a fiber, first on `worker`.
  void Go(int worker, sched::FiberFn fn);
  // The same, and waits until it has returned.
  void On(int worker, sched::FiberFn fn);
  // As On, but never on another worker: On is only a wish, as a fiber does not wait for a worker
  // that seems stuck.
  void ExactlyOn(int worker, const std::function<void()>& fn);
  // Waits until every worker sleeps with nothing to run: what was started is parked or has ended,
  // and what it wrote can be read.
  void AwaitIdle();
  // Waits until all fibers have returned.
  void Join();
  // Waits until `condition` holds, looking every millisecond.
  void AwaitThat(const char* what, const std::function<bool()>& condition);
  static sched::Deadline Now() { return sched::Host::Real().Now(); }

  // A connection on the shard of worker `home`. The fixture closes it at the end.
  End Open(int home = 0, int family = AF_INET);
  Conn& Adopt(int home, int fd, int family);
  Conn& NewConn(int home);  // not connected
  // A listener at one address, on worker 0's shard.
  Listener& Listen(std::string_view at, const ListenOptions& options = {});

  // More of the state when a test hangs.
  virtual void Dump(std::ostream&) {}

 private:
  [[noreturn]] void Hung(const std::string& what);
  bool AllWorkersSleep();

  int fds_before_ = 0;
  std::unique_ptr<Poller> poller_;
  std::unique_ptr<sched::Scheduler> scheduler_;
  std::deque<Conn> conns_;
  std::deque<Listener> listeners_;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_TESTING_FIXTURE_H_
