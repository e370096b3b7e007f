// SPDX-License-Identifier: Apache-2.0
//
// The example at the top of README.md, word for word, compiles and does what it says.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <thread>

#include "netpoll/conn.h"
#include "netpoll/endpoint.h"
#include "netpoll/io_result.h"
#include "netpoll/poller.h"
#include "netpoll/testing/raw_socket.h"
#include "sched/fibers.h"
#include "sched/scheduler.h"

namespace {

using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

TEST(ReadmeTest, TheExampleAsksAndGetsItsAnswer) {
  auto server = netpoll::RawSocket::Listen(*netpoll::Endpoint::Parse("127.0.0.1:0"));
  const netpoll::Endpoint endpoint = server.local();
  std::string asked;
  std::thread answer([&] {
    netpoll::RawSocket peer = server.Accept();
    asked = peer.Receive(4);
    peer.Send("pong!");
  });
  constexpr std::string_view kPing = "ping";
  const auto request = std::as_bytes(std::span(kPing));
  std::array<std::byte, 100> buffer;
  netpoll::IoResult reply;
  {
    auto poller = netpoll::Poller::Create({.shards = 2});
    sched::Scheduler scheduler({.event_sources = (*poller)->event_sources()});
    const bool started = scheduler.SpawnOn(0, [&] {
      netpoll::Conn conn(**poller);
      if (!conn.Connect(endpoint, sched::Now() + 5s).ok()) return;
      if (!conn.Write(request).ok()) return;
      reply = conn.Read(buffer);  // parks the fiber, not the worker
    });
    if (started) scheduler.DrainUntil(sched::kNever);
    EXPECT_TRUE(started);
  }
  answer.join();
  EXPECT_EQ(asked, "ping");
  EXPECT_EQ(reply.bytes, 5u);
}

}  // namespace
