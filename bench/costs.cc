// SPDX-License-Identifier: Apache-2.0
//
// What the steps of bench/scaling.py's model cost on this machine: one line "name nanoseconds" per
// step, the median of several rounds. Needs two CPUs. The two sides are processes with shared
// memory, pinned to a CPU each; loopback only.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <new>
#include <vector>

#include "sched/event_source.h"
#include "sched/fibers.h"
#include "sched/internal/futex_source.h"
#include "sched/internal/run_queue.h"
#include "sched/scheduler.h"

namespace {

constexpr int kConnections = 64;
constexpr int kPayloadBytes = 64;
constexpr int kRounds = 301;
constexpr int kWorkers = 192;  // of the machine that the model is about
constexpr int kSecondsMax = 60;
constexpr int64_t kRaceNs = 100'000'000;  // how long two CPUs contend for something

using Ring = sched::internal::BasicRunQueue<sched::StdAtomics>;

struct alignas(64) Line {
  std::atomic<int64_t> value{0};
};

// What others look at of a worker: head_ and tail_ of its ring, and last_poll_. Pages of their own,
// so that no prefetcher finds the next.
struct alignas(4096) WorkerLines {
  std::array<Line, 3> lines;
};

// What both processes see.
struct Shared {
  Line turn;         // whose move it is
  Line lock;         // a spin lock
  Line deadline;     // a race's end, or 0 before its start
  Line answered_in;  // how long the partner took
  std::array<Line, 2> counts;
  std::array<WorkerLines, kWorkers> workers;
  Ring victim;
};

Shared* shared;
std::array<int, 2> cpus;

void Check(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::exit(1);
}

// Between two looks of a loop that spins.
void Pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void Pin(int side) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[side], &set);
  Check(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

void ChooseCpus() {
  cpu_set_t set;
  Check(sched_getaffinity(0, sizeof set, &set) == 0, "sched_getaffinity");
  int found = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus[found++] = cpu;
  }
  if (found == 2) return;
  std::fprintf(stderr, "costs: needs two CPUs\n");
  std::exit(1);
}

void Report(const char* name, double ns) {
  std::printf("%s %.1f\n", name, ns);
  std::fflush(stdout);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// The median of `rounds` of what `round` returns, after one for warming up.
double MedianOf(int rounds, const std::function<double()>& round) {
  (void)round();
  std::vector<double> values(rounds);
  for (double& value : values) value = round();
  return Median(std::move(values));
}

double NsPerTurn(int turns, const std::function<void()>& turn) {
  const int64_t from = NowNs();
  for (int i = 0; i < turns; ++i) turn();
  return static_cast<double>(NowNs() - from) / turns;
}

// The other side, on the second CPU, until it is destroyed.
class Partner {
 public:
  explicit Partner(const std::function<void()>& body) {
    child_ = fork();
    Check(child_ >= 0, "fork");
    if (child_ > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Pin(1);
    body();
    _exit(0);
  }
  ~Partner() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  Partner(const Partner&) = delete;
  Partner& operator=(const Partner&) = delete;

 private:
  pid_t child_;
};

void WaitForTurn(int64_t turn) {
  while (shared->turn.value.load(std::memory_order_acquire) != turn) Pause();
}
void GiveTurn(int64_t turn) { shared->turn.value.store(turn, std::memory_order_release); }

// The partner does `move` whenever it is given turn 1, and gives turn 0 back.
std::function<void()> InTurns(const std::function<void()>& move) {
  return [move] {
    for (;;) {
      WaitForTurn(1);
      move();
      GiveTurn(0);
    }
  };
}
void LetPartnerMove() {
  GiveTurn(1);
  WaitForTurn(0);
}

// Nanoseconds per operation when both sides repeat their own for a while: all operations count.
double Race(const std::function<void()>& mine, const std::function<void()>& theirs) {
  shared->deadline.value.store(0);
  const auto run = [](int side, const std::function<void()>& operation) {
    int64_t until;
    while ((until = shared->deadline.value.load()) == 0) Pause();
    int64_t count = 0;
    while (NowNs() < until) {
      for (int i = 0; i < 16; ++i) operation();
      count += 16;
    }
    shared->counts[side].value.store(count);
  };
  shared->counts[1].value.store(-1);
  const Partner partner([&] { run(1, theirs); });
  usleep(20'000);  // until it is there
  shared->deadline.value.store(NowNs() + kRaceNs);
  run(0, mine);
  while (shared->counts[1].value.load() < 0) Pause();
  return static_cast<double>(kRaceNs) /
         static_cast<double>(shared->counts[0].value.load() + shared->counts[1].value.load());
}

// Pairs of connected TCP sockets on loopback.
struct Connections {
  std::array<int, kConnections> client;
  std::array<int, kConnections> server;

  Connections() {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    Check(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0, "bind");
    Check(listen(listener, kConnections) == 0, "listen");
    Check(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0, "getsockname");
    const int on = 1;
    for (int i = 0; i < kConnections; ++i) {
      client[i] = socket(AF_INET, SOCK_STREAM, 0);
      Check(connect(client[i], reinterpret_cast<sockaddr*>(&address), size) == 0, "connect");
      server[i] = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
      Check(server[i] >= 0, "accept4");
      setsockopt(client[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(server[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    close(listener);
  }
  ~Connections() {
    for (const int fd : client) close(fd);
    for (const int fd : server) close(fd);
  }
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  void Ask(int count) const {
    char bytes[kPayloadBytes] = {};
    for (int i = 0; i < count; ++i) Check(send(client[i], bytes, sizeof bytes, 0) > 0, "send");
  }
  void Answer(int count) const {
    char bytes[kPayloadBytes];
    for (int i = 0; i < count; ++i) {
      Check(recv(server[i], bytes, sizeof bytes, 0) == sizeof bytes, "recv");
      Check(send(server[i], bytes, sizeof bytes, 0) == sizeof bytes, "send");
    }
  }
  void TakeAnswers(int count) const {
    char bytes[kPayloadBytes];
    for (int i = 0; i < count; ++i)
      Check(recv(client[i], bytes, sizeof bytes, MSG_WAITALL) == sizeof bytes, "recv");
  }
  int Epoll(uint32_t events) const {
    const int epoll = epoll_create1(0);
    for (const int fd : server) Register(epoll, fd, events);
    return epoll;
  }
  static void Register(int epoll, int fd, uint32_t events) {
    epoll_event event = {};
    event.events = events;
    Check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  }
};

int Harvest(int epoll, int count_max) {
  epoll_event events[128];
  return epoll_wait(epoll, events, count_max, 0);
}

// --- The measurements.

// Receiving and sending, by the CPU on which the request came in, and by the other, in turns.
void MeasureRequests() {
  const Connections connections;
  const auto answer = [&] { return NsPerTurn(1, [&] { connections.Answer(kConnections); }); };
  const Partner partner(
      InTurns([&] { shared->answered_in.value.store(static_cast<int64_t>(answer())); }));
  std::vector<double> there;
  const double here = MedianOf(kRounds, [&] {
    connections.Ask(kConnections);
    LetPartnerMove();
    connections.TakeAnswers(kConnections);
    there.push_back(static_cast<double>(shared->answered_in.value.load()) / kConnections);
    connections.Ask(kConnections);
    const double ns = answer();
    connections.TakeAnswers(kConnections);
    return ns / kConnections;
  });
  Report("request", here);
  Report("request_on_the_other_cpu", Median(std::move(there)));
}

void MeasureEpollWait() {
  const Connections connections;
  const int epoll = connections.Epoll(EPOLLIN | EPOLLRDHUP | EPOLLET);
  for (const int ready : {0, 1, 8, kConnections}) {
    const double ns = MedianOf(kRounds, [&] {
      connections.Ask(ready);
      const double wait = NsPerTurn(1, [&] { Check(Harvest(epoll, 128) == ready, "epoll_wait"); });
      connections.Answer(ready);
      connections.TakeAnswers(ready);
      return wait;
    });
    char name[32];
    std::snprintf(name, sizeof name, "epoll_wait_%d", ready);
    Report(name, ns);
  }
  close(epoll);
}

// Both CPUs harvest what is always ready: from one epoll, and from one each.
void MeasureEpollContention() {
  const Connections connections;
  const Connections others;
  connections.Ask(kConnections);
  others.Ask(kConnections);
  const int epoll = connections.Epoll(EPOLLIN);
  const int other = others.Epoll(EPOLLIN);
  for (const int count : {1, 8, kConnections}) {
    char name[40];
    std::snprintf(name, sizeof name, "harvest_%d_own_epolls", count);
    Report(name, Race([&] { Harvest(epoll, count); }, [&] { Harvest(other, count); }));
    std::snprintf(name, sizeof name, "harvest_%d_one_epoll", count);
    Report(name, Race([&] { Harvest(epoll, count); }, [&] { Harvest(epoll, count); }));
  }
  close(epoll);
  close(other);
}

// The lock that every event takes on its way into an epoll: two CPUs make events, for one epoll and
// for one each. A turn writes and reads an eventfd, which is two callbacks.
void MeasureEventContention() {
  const std::array<int, 2> events = {eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK)};
  const auto turn = [&](int side) {
    eventfd_t count = 1;
    Check(eventfd_write(events[side], count) == 0, "eventfd_write");
    Check(eventfd_read(events[side], &count) == 0, "eventfd_read");
  };
  for (const bool one : {false, true}) {
    const int epoll = epoll_create1(0);
    const int other = epoll_create1(0);
    Connections::Register(epoll, events[0], EPOLLIN | EPOLLET);
    Connections::Register(one ? epoll : other, events[1], EPOLLIN | EPOLLET);
    Report(one ? "event_one_epoll" : "event_own_epolls",
           Race([&] { turn(0); }, [&] { turn(1); }) / 2);
    close(epoll);
    close(other);
  }
  close(events[0]);
  close(events[1]);
}

void MeasureEpollCtl() {
  const Connections connections;
  const int epoll = epoll_create1(0);
  Report("epoll_ctl_add_and_del", MedianOf(kRounds, [&] {
           return NsPerTurn(1,
                            [&] {
                              for (const int fd : connections.server) {
                                Connections::Register(epoll, fd, EPOLLIN | EPOLLET);
                                Check(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr) == 0,
                                      "epoll_ctl");
                              }
                            }) /
                  kConnections;
         }));
  close(epoll);
}

// The other CPU sleeps in epoll_wait: what waking it costs here, and when it is awake there.
void MeasureWakeUp() {
  const int event = eventfd(0, EFD_NONBLOCK);
  const int epoll = epoll_create1(0);
  Connections::Register(epoll, event, EPOLLIN);
  const Partner partner([&] {
    for (;;) {
      epoll_event got;
      (void)epoll_wait(epoll, &got, 1, -1);
      const int64_t now = NowNs();
      eventfd_t count;
      (void)eventfd_read(event, &count);
      shared->turn.value.store(now);
    }
  });
  std::vector<double> latencies;
  const double write = MedianOf(kRounds, [&] {
    shared->turn.value.store(0);
    usleep(300);  // until it sleeps
    const int64_t from = NowNs();
    Check(eventfd_write(event, 1) == 0, "eventfd_write");
    const int64_t written = NowNs();
    int64_t awake;
    while ((awake = shared->turn.value.load()) == 0) Pause();
    latencies.push_back(static_cast<double>(awake - from));
    return static_cast<double>(written - from);
  });
  Report("eventfd_write_to_a_sleeper", write);
  Report("wake_up_latency", Median(std::move(latencies)));
  close(epoll);
  close(event);
}

void MeasureCacheLine() {
  const Partner partner(InTurns([] {}));
  Report("cache_line_transfer",
         MedianOf(kRounds, [] { return NsPerTurn(100, LetPartnerMove) / 2; }));
}

void MeasureLock() {
  const auto turn = [] {
    while (shared->lock.value.exchange(1, std::memory_order_acquire) != 0) Pause();
    shared->lock.value.store(0, std::memory_order_release);
  };
  shared->lock.value.store(0);
  Report("lock_alone", MedianOf(kRounds, [&] { return NsPerTurn(1000, turn); }));
  shared->lock.value.store(0);
  Report("lock_contended", Race(turn, turn));
}

// Looking at all workers, all of which have changed their queues since.
void MeasureLook() {
  constexpr int kStride = 77;  // shares no factor with kWorkers
  const Partner partner(InTurns([] {
    for (WorkerLines& worker : shared->workers) {
      for (Line& line : worker.lines) line.value.fetch_add(1);
    }
  }));
  int64_t sum = 0;
  const double ns = MedianOf(kRounds, [&] {
    LetPartnerMove();
    return NsPerTurn(1, [&] {
      for (int i = 0; i < kWorkers; ++i) {
        for (const Line& line : shared->workers[i * kStride % kWorkers].lines)
          sum += line.value.load();
      }
    });
  });
  Check(sum > 0, "sum");
  Report("look_at_a_worker", ns / kWorkers);
}

void MeasureSteal() {
  for (const int waiting : {2, 16, 128}) {
    new (&shared->victim) Ring;
    const Partner partner(InTurns([waiting] {
      while (shared->victim.Pop() != 0) {
      }
      for (int i = 1; i <= waiting; ++i) (void)shared->victim.Push(i);
    }));
    Ring own;
    char name[32];
    std::snprintf(name, sizeof name, "steal_half_of_%d", waiting);
    Report(name, MedianOf(kRounds, [&] {
             LetPartnerMove();
             const double ns = NsPerTurn(1, [&] { (void)shared->victim.StealInto(own); });
             while (own.Pop() != 0) {
             }
             return ns;
           }));
  }
}

// Two fibers that yield to each other, through the worker's loop.
void MeasureSwitch() {
  constexpr int kSwitches = 1'000'000;
  sched::internal::FutexSource source;
  sched::Scheduler scheduler({.event_sources = {&source}});
  double ns = 0;
  const bool started = scheduler.SpawnOn(0, [&ns] {
    sched::FiberScope scope;
    const bool other = scope.Spawn([] {
      for (int i = 0; i < kSwitches / 2; ++i) sched::Yield();
    });
    Check(other, "Spawn");
    ns = NsPerTurn(kSwitches / 2, [] { sched::Yield(); }) / 2;
  });
  Check(started, "SpawnOn");
  scheduler.DrainUntil(sched::kNever);
  Report("fiber_switch", ns);
}

void Main() {
  alarm(kSecondsMax);  // for a partner that is gone
  ChooseCpus();
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Check(memory != MAP_FAILED, "mmap");
  shared = new (memory) Shared;
  Pin(0);
  MeasureRequests();
  MeasureEpollWait();
  MeasureEpollContention();
  MeasureEventContention();
  MeasureEpollCtl();
  MeasureWakeUp();
  MeasureCacheLine();
  MeasureLock();
  MeasureLook();
  MeasureSteal();
  MeasureSwitch();  // the last: it starts threads
}

}  // namespace

int main() {
  Main();
  return 0;
}
