// SPDX-License-Identifier: Apache-2.0
//
// Many idle sessions in one daemon on the simulated kernel, more than any machine of ours has
// descriptors for, and what one costs in memory. Every session relays a request first, and some a
// second at the end.
//
//   crowd [SESSIONS]     default 1000000
//
// The simulation has sockets, queues and packets of its own. So a second process makes the same
// calls without a daemon, and the difference is what the daemon needs: records, PollDescs, timers,
// and what malloc wastes on them.
#include <malloc.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "netpoll/endpoint.h"
#include "netpoll/sim/network.h"
#include "netpoll/sim/sim_kernel.h"
#include "sched/check.h"
#include "sched/testing/one_thread_host.h"
#include "server/server.h"

namespace parkway::sim {
namespace {

using netpoll::sim::Network;
using netpoll::sim::SimKernel;
using netpoll::sim::TcpEnd;
using netpoll::sim::TcpListener;
using sched::testing::OneThreadHost;

constexpr int kDaemonPort = 8080;
constexpr int kBackendPort = 9000;
constexpr int kAtOnce = 500;         // connect together
const std::string kRequest(8, 'x');  // which a std::string holds without more memory

netpoll::Endpoint Loopback(int port) {
  return *netpoll::Endpoint::Parse("127.0.0.1:" + std::to_string(port));
}

// Bytes that malloc has given out.
double Allocated() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

int Descriptors(int sessions) { return 3 * sessions + 1000; }  // pipes, too

SimKernel::Options OptionsFor(int sessions) {
  SimKernel::Options options;
  options.descriptors = Descriptors(sessions);
  return options;
}

// The machine, a backend that echoes, and clients.
class Stage {
 public:
  explicit Stage(int sessions) : kernel_(network_, OptionsFor(sessions)) {
    backend_.backlog = kAtOnce;
    backend_.on_connection = [this] {
      TcpEnd* const end = backend_.queue.front();
      backend_.queue.pop_front();
      end->on_change = [this, end](uint32_t) {
        network_.After(sched::Duration(0), [end] { Echo(*end); });
      };
    };
    network_.AddListener(kBackendPort, &backend_);
  }

  // So many more, all of them connected.
  void Connect(int count) {
    const size_t first = clients_.size();
    for (int i = 0; i < count; ++i) {
      clients_.push_back(network_.Connect(kDaemonPort));
      TcpEnd* const client = clients_.back();
      client->on_change = [this, client](uint32_t) { CountAnswer(*client); };
    }
    RunUntil([&] {
      return std::all_of(clients_.begin() + static_cast<ptrdiff_t>(first), clients_.end(),
                         [](const TcpEnd* client) { return client->PeerNameError() == 0; });
    });
  }

  void Request(TcpEnd& client) {
    PARKWAY_CHECK(client.Send(kRequest.data(), kRequest.size()) == ssize_t(kRequest.size()), 0);
    asked_ += kRequest.size();
  }
  void AwaitAnswers() {
    RunUntil([this] { return answered_ == asked_; });
  }

  template <class Condition>
  void RunUntil(Condition condition) {
    for (int rounds = 0; !condition(); ++rounds) {
      PARKWAY_CHECK(rounds < 1'000'000, answered_);
      const bool never = false;
      (void)host_.Await(host_.Now() + std::chrono::microseconds(100), &never);
    }
  }

  OneThreadHost& host() { return host_; }
  SimKernel& kernel() { return kernel_; }
  std::vector<TcpEnd*>& clients() { return clients_; }

 private:
  static void Echo(TcpEnd& end) {
    char buffer[1024];
    const ssize_t got = end.Receive(buffer, sizeof buffer, /*peek=*/false);
    if (got > 0) (void)end.Send(buffer, static_cast<size_t>(got));
  }

  void CountAnswer(TcpEnd& client) {
    char buffer[1024];
    const ssize_t got = client.Receive(buffer, sizeof buffer, /*peek=*/false);
    if (got > 0) answered_ += static_cast<size_t>(got);
  }

  OneThreadHost host_{1};
  Network network_{host_, {}};
  SimKernel kernel_;
  TcpListener backend_;
  std::vector<TcpEnd*> clients_;
  size_t asked_ = 0;  // bytes
  size_t answered_ = 0;
};

// Connects that many clients, each with a request; bytes that malloc gave out for it per client.
template <class Serve>
double PerSession(Stage& stage, int sessions, Serve serve) {
  const double before = Allocated();
  for (int done = 0; done < sessions;) {
    const int count = std::min(kAtOnce, sessions - done);
    stage.Connect(count);
    for (int i = 0; i < count; ++i) stage.Request(*stage.clients()[done + i]);
    serve(count);
    stage.AwaitAnswers();
    done += count;
  }
  return (Allocated() - before) / sessions;
}

double WithDaemon(int sessions) {
  Stage& stage = *new Stage(sessions);  // the process ends with all of them open
  Server* server = nullptr;
  auto main = stage.host().StartThread("main", -1, [&]() -> std::optional<sched::Deadline> {
    Config config;
    config.routes = {{.name = "crowd",
                      .listen = {{"", {Loopback(kDaemonPort)}}},
                      .backends = {{.at = {Loopback(kBackendPort)}}}}};
    config.workers = 1;
    config.stall_report = sched::Duration(0);
    config.max_conns = sessions;
    config.memory_budget = kNoMemoryBudget;
    Platform platform;
    platform.host = &stage.host();
    platform.simulated = &stage.kernel();
    platform.descriptors = Descriptors(sessions);
    auto started = Server::Start(config, platform);
    if (!started.ok()) std::fprintf(stderr, "%s\n", started.status().ToString().c_str());
    PARKWAY_CHECK(started.ok(), 0);
    server = started->get();
    server->Run();
    return std::nullopt;
  });
  stage.RunUntil([&] { return server != nullptr; });
  const double used = PerSession(stage, sessions, [](int) {});
  PARKWAY_CHECK(server->sessions() == sessions, server->sessions());
  // They are still alive.
  for (int i = 0; i < sessions; i += 1 + sessions / 1000) stage.Request(*stage.clients()[i]);
  stage.AwaitAnswers();
  (void)main.release();
  return used;
}

// What the daemon asks of the kernel for a session, and its relaying of one request.
double WithoutDaemon(int sessions) {
  Stage stage(sessions);
  SimKernel& kernel = stage.kernel();
  const netpoll::Endpoint at = Loopback(kDaemonPort), backend = Loopback(kBackendPort);
  const int listener = kernel.Socket(AF_INET, SOCK_STREAM, 0);
  PARKWAY_CHECK(kernel.Bind(listener, at.data(), at.size()) == 0, listener);
  PARKWAY_CHECK(kernel.Listen(listener, kAtOnce) == 0, listener);
  const int epoll = kernel.EpollCreate(0);
  const auto watch = [&](int fd) {
    epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {}};
    PARKWAY_CHECK(kernel.EpollCtl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, fd);
  };
  const auto move = [&](int from, int to) {
    char buffer[1024];
    ssize_t got = 0;
    stage.RunUntil([&] { return (got = kernel.Recv(from, buffer, sizeof buffer, 0)) > 0; });
    PARKWAY_CHECK(kernel.Send(to, buffer, static_cast<size_t>(got), 0) == got, got);
  };
  return PerSession(stage, sessions, [&](int count) {
    std::vector<std::pair<int, int>> ends;
    for (int i = 0; i < count; ++i) {
      ends.emplace_back(kernel.Accept4(listener, nullptr, nullptr, 0),
                        kernel.Socket(AF_INET, SOCK_STREAM, 0));
      PARKWAY_CHECK(ends.back().first > 0, i);
      (void)kernel.Connect(ends.back().second, backend.data(), backend.size());
      watch(ends.back().first);
      watch(ends.back().second);
    }
    for (const auto& [client, server] : ends) {
      stage.RunUntil([&, fd = server] {
        sockaddr_in peer;
        socklen_t size = sizeof peer;
        return kernel.GetPeerName(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
      });
      move(client, server);
    }
    for (const auto& [client, server] : ends) move(server, client);
    epoll_event events[256];
    const timespec no_wait = {};
    while (kernel.EpollWait(epoll, events, 256, &no_wait) > 0) {
    }
  });
}

// In a process of its own, whose end frees all.
double InAChild(double (*measure)(int), int sessions) {
  int result[2];
  PARKWAY_CHECK(::pipe(result) == 0, errno);
  if (::fork() == 0) {
    const double bytes = measure(sessions);
    ::_exit(::write(result[1], &bytes, sizeof bytes) == sizeof bytes ? 0 : 1);
  }
  ::close(result[1]);
  double bytes = 0;
  const bool told = ::read(result[0], &bytes, sizeof bytes) == sizeof bytes;
  int status = 0;
  (void)::wait(&status);
  PARKWAY_CHECK(told && status == 0, status);
  ::close(result[0]);
  return bytes;
}

}  // namespace
}  // namespace parkway::sim

int main(int argc, char** argv) {
  using parkway::sim::InAChild;
  const int sessions = argc > 1 ? std::atoi(argv[1]) : 1'000'000;
  if (argc > 2 || sessions < 1) {
    std::fprintf(stderr, "usage: crowd [SESSIONS]\n");
    return 2;
  }
  const double with = InAChild(&parkway::sim::WithDaemon, sessions);
  const double without = InAChild(&parkway::sim::WithoutDaemon, sessions);
  std::printf("%d sessions: %.0f bytes each in the daemon (%.0f, less %.0f of the simulation's)\n",
              sessions, with - without, with, without);
}
