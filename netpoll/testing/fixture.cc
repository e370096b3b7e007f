// SPDX-License-Identifier: Apache-2.0
#include "netpoll/testing/fixture.h"

#include <dirent.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <utility>

namespace netpoll {
namespace {

constexpr sched::Duration kPatience = std::chrono::seconds(60);

// Blocks the test's own thread.
void PauseThread(sched::Duration span) {
  (void)sched::Host::Real().NewEvent()->WaitUntil(sched::Host::Real().Now() + span);
}

template <class Visit>
void ForEachEntry(const char* folder, Visit visit) {
  DIR* const dir = opendir(folder);
  if (dir == nullptr) return;
  while (const dirent* const entry = readdir(dir)) {
    if (entry->d_name[0] != '.') visit(std::string(entry->d_name));
  }
  closedir(dir);
}

// What the kernel says of one thread: "S (sleeping)", and how often it was switched away.
struct ThreadState {
  std::string state;
  std::string switches;
  friend bool operator==(const ThreadState&, const ThreadState&) = default;
};

// By thread id.
std::map<std::string, ThreadState> WorkerThreads() {
  std::map<std::string, ThreadState> threads;
  ForEachEntry("/proc/self/task", [&](const std::string& id) {
    const std::string folder = "/proc/self/task/" + id;
    std::string name;
    std::getline(std::ifstream(folder + "/comm") >> std::ws, name);
    if (name.rfind("worker-", 0) != 0) return;
    ThreadState& thread = threads[id];
    std::ifstream status(folder + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("State:", 0) == 0) thread.state = line.substr(7);
      if (line.find("voluntary_ctxt_switches") != std::string::npos) thread.switches += line;
    }
  });
  return threads;
}

}  // namespace

std::string ReadText(Conn& conn, size_t buffer_bytes, IoResult* result) {
  std::string buffer(buffer_bytes, '\0');
  *result = conn.Read(std::as_writable_bytes(std::span(buffer)));
  buffer.resize(result->bytes);
  return buffer;
}

std::string ReadExactly(Conn& conn, size_t size, IoResult* result) {
  std::string received;
  *result = {};
  while (received.size() < size && result->ok()) {
    received += ReadText(conn, size - received.size(), result);
  }
  return received;
}

std::string ReadToEnd(Conn& conn, IoResult* result) {
  std::string received;
  *result = {};
  while (result->ok()) received += ReadText(conn, 65536, result);
  return received;
}

std::ostream& operator<<(std::ostream& out, IoStatus status) { return out << ToString(status); }

std::ostream& operator<<(std::ostream& out, const IoResult& result) {
  return out << result.status << " (errno " << result.os_error << ", " << result.bytes << " bytes)";
}

int OpenDescriptors() {
  int count = 0;
  ForEachEntry("/proc/self/fd", [&](const std::string&) { ++count; });
  return count;
}

void NetpollTest::SetUp() { fds_before_ = OpenDescriptors(); }

void NetpollTest::TearDown() {
  if (scheduler_ != nullptr) {
    On(0, [&] {
      listeners_.clear();
      conns_.clear();
    });
    Join();  // nobody is blocked
    EXPECT_EQ(scheduler_->stats().fibers, 0);
    EXPECT_EQ(poller_->descriptors_in_use(), 0);
    scheduler_.reset();  // CHECKs fibers, stacks and the parking lot
    poller_.reset();     // CHECKs the PollDescs
  }
  EXPECT_EQ(OpenDescriptors(), fds_before_);
}

void NetpollTest::Start(KernelCalls* calls, sched::Scheduler::Options options) {
  auto created = Poller::Create({.shards = workers(), .simulated = calls});
  ASSERT_TRUE(created.ok()) << created.status();
  poller_ = *std::move(created);
  options.event_sources = poller_->event_sources();
  // A loaded machine stalls, and that is not what is tested.
  if (!options.on_stall) options.stall_after = sched::Duration(0);
  scheduler_ = std::make_unique<sched::Scheduler>(options);
}

Poller& NetpollTest::poller() {
  if (poller_ == nullptr) Start();
  return *poller_;
}

sched::Scheduler& NetpollTest::scheduler() {
  if (scheduler_ == nullptr) Start();
  return *scheduler_;
}

void NetpollTest::Go(int worker, sched::FiberFn fn) {
  ASSERT_TRUE(scheduler().SpawnOn(worker, std::move(fn)));
}

void NetpollTest::On(int worker, sched::FiberFn fn) {
  const auto returned = sched::Host::Real().NewEvent();
  Go(worker, [&, fn = std::move(fn)]() mutable {
    std::move(fn)();
    fn = nullptr;
    returned->Set();
  });
  if (!returned->WaitUntil(Now() + kPatience)) Hung("a fiber does not return");
}

void NetpollTest::ExactlyOn(int worker, const std::function<void()>& fn) {
  for (bool done = false; !done;) {
    On(worker, [&] {
      if (sched::CurrentWorkerIndex() != worker) return;
      done = true;
      fn();
    });
  }
}

void NetpollTest::AwaitIdle() {
  AwaitThat("all fibers to park", [this] { return AllWorkersSleep(); });
  // Looking at threads orders nothing; this lets the caller read what the fibers wrote.
  for (int worker = 0; worker < workers(); ++worker) ExactlyOn(worker, [] {});
}

// Asleep at two looks a millisecond apart, and not awake in between. A worker sleeps only when it
// has looked everywhere and found nothing to run.
bool NetpollTest::AllWorkersSleep() {
  const auto before = WorkerThreads();
  if (static_cast<int>(before.size()) != workers()) return false;  // not all have started yet
  for (const auto& [id, thread] : before) {
    if (thread.state.empty() || thread.state[0] != 'S') return false;
  }
  PauseThread(std::chrono::milliseconds(1));
  return WorkerThreads() == before;
}

void NetpollTest::Join() {
  if (!scheduler().DrainUntil(Now() + kPatience)) Hung("fibers are left");
}

void NetpollTest::AwaitThat(const char* what, const std::function<bool()>& condition) {
  const sched::Deadline until = Now() + kPatience;
  while (!condition()) {
    if (Now() > until) Hung(std::string("in vain for ") + what);
    PauseThread(std::chrono::milliseconds(1));
  }
}

NetpollTest::End NetpollTest::Open(int home, int family) {
  auto [ours, theirs] = ConnectedPair(family);
  const int fd = ours.Release();
  return {Adopt(home, fd, family), fd, std::move(theirs)};
}

Conn& NetpollTest::Adopt(int home, int fd, int family) {
  Conn& conn = conns_.emplace_back();
  (void)scheduler();
  ExactlyOn(home, [&] { conn = Conn(*poller_, fd, family); });
  return conn;
}

Conn& NetpollTest::NewConn(int home) {
  Conn& conn = conns_.emplace_back();
  (void)scheduler();
  ExactlyOn(home, [&] { conn = Conn(*poller_); });
  return conn;
}

Listener& NetpollTest::Listen(std::string_view at, const ListenOptions& options) {
  const auto bound = Bind(poller().kernel(), Endpoint::Parse(at).value(), 1, options);
  EXPECT_TRUE(bound.ok()) << bound.status();
  ExactlyOn(0, [&] { listeners_.emplace_back(*poller_, bound->front()); });
  return listeners_.back();
}

void NetpollTest::Hung(const std::string& what) {
  const sched::SchedulerStats stats = scheduler_->stats();
  std::cerr << "HUNG: " << what << "; fibers " << stats.fibers << ", timers " << stats.timers
            << ", switches " << stats.switches << ", waits " << stats.waits << ", PollDescs "
            << poller_->descriptors_in_use() << "\n";
  for (const auto& [id, thread] : WorkerThreads()) {
    std::cerr << "  thread " << id << ": " << thread.state << " " << thread.switches << "\n";
  }
  Dump(std::cerr);
  // The fibers that are left still use what this frame's callers own.
  std::abort();
}

}  // namespace netpoll
