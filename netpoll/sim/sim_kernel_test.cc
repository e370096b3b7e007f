// SPDX-License-Identifier: Apache-2.0
//
// The simulated kernel against the one this runs on: what happens at the edges of a connection,
// told by both in the same words. A difference is a lie that the simulation would build on.
#include "netpoll/sim/sim_kernel.h"

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "netpoll/sim/network.h"
#include "sched/testing/one_thread_host.h"

namespace netpoll::sim {
namespace {

using sched::testing::OneThreadHost;

std::string EventNames(uint32_t events) {
  constexpr struct {
    uint32_t bit;
    const char* name;
  } kNames[] = {{EPOLLIN, "IN"},   {EPOLLOUT, "OUT"}, {EPOLLPRI, "PRI"},
                {EPOLLERR, "ERR"}, {EPOLLHUP, "HUP"}, {EPOLLRDHUP, "RDHUP"}};
  std::string names;
  for (const auto& [bit, name] : kNames) {
    if ((events & bit) != 0) names += (names.empty() ? "" : " ") + std::string(name);
  }
  return names.empty() ? "none" : names;
}

// A process with a listener, that writes down what its kernel tells it.
class Teller {
 public:
  explicit Teller(const Kernel& kernel) : kernel_(kernel) {
    edges_ = kernel_.EpollCreate(EPOLL_CLOEXEC);
    EXPECT_EQ(kernel_.Pipe2(pipe_, O_NONBLOCK | O_CLOEXEC), 0);
    listener_ = NewSocket();
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(kernel_.Bind(listener_, AsSockaddr(any), sizeof any), 0);
    EXPECT_EQ(kernel_.Listen(listener_, 16), 0);
    socklen_t size = sizeof address_;
    EXPECT_EQ(kernel_.GetSockName(listener_, AsSockaddr(address_), &size), 0);
    StartConnect();
    Settle();
    AcceptNext();
  }

  ~Teller() {
    for (const int fd : {a, b, listener_, edges_, pipe_[0], pipe_[1]}) {
      if (fd >= 0) kernel_.Close(fd);
    }
  }

  Teller(const Teller&) = delete;
  Teller& operator=(const Teller&) = delete;

  void StartConnect() {
    a = NewSocket();
    EXPECT_EQ(kernel_.Connect(a, AsSockaddr(address_), sizeof address_), -EINPROGRESS);
  }
  void AcceptNext() {
    b = kernel_.Accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    EXPECT_GE(b, 0);
  }
  int NewSocket() { return kernel_.Socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

  // Lets what is under way arrive.
  void Settle() {
    const int nothing = kernel_.EpollCreate(EPOLL_CLOEXEC);
    const timespec span = {0, 20'000'000};
    epoll_event event;
    EXPECT_EQ(kernel_.EpollWait(nothing, &event, 1, &span), 0);
    kernel_.Close(nothing);
  }

  // As for a connect: the port is chosen then.
  void BindWithoutPort() {
    const int fd = NewSocket();
    const int on = 1;
    Say("set: " +
        Value(kernel_.SetSockOpt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on)));
    sockaddr_in name = address_;
    name.sin_port = 0;
    Say("bind: " + Value(kernel_.Bind(fd, AsSockaddr(name), sizeof name)));
    socklen_t size = sizeof name;
    EXPECT_EQ(kernel_.GetSockName(fd, AsSockaddr(name), &size), 0);
    Say(name.sin_port == 0 ? "no port" : "a port");
    kernel_.Close(fd);
  }

  // What holds now.
  void State(int fd) { Say("holds: " + EventNames(Holds(fd))); }
  // Edges since Watch or the last Edges.
  void Watch(int fd) {
    Add(edges_, fd);
    Edges();
  }
  void Edges() {
    Settle();
    const timespec now = {0, 0};
    epoll_event event = {};
    const int count = kernel_.EpollWait(edges_, &event, 1, &now);
    Say("edge: " + (count == 1 ? EventNames(event.events) : std::string("no")));
  }

  void Send(int fd, std::string_view text, int flags = 0) {
    Say("send: " + Value(kernel_.Send(fd, text.data(), text.size(), flags | MSG_NOSIGNAL)));
  }
  void Receive(int fd, size_t size = 100, int flags = 0) {
    char buffer[100];
    const ssize_t got = kernel_.Recv(fd, buffer, std::min(size, sizeof buffer), flags);
    Say("recv: " + (got > 0 ? "'" + std::string(buffer, got) + "'" : Value(got)));
  }
  // All that can be spliced, from there and to there.
  void SpliceFrom(int fd) { Splice("from", fd, pipe_[1], 65536); }
  void SpliceTo(int fd) { Splice("to", pipe_[0], fd, in_pipe_); }
  // As much as the kernel takes, and as much as has come.
  void Fill(int fd) {
    const std::string piece(65536, 'x');
    int64_t sent = 0;
    for (int quiet = 0; quiet < 2;) {
      const ssize_t taken = kernel_.Send(fd, piece.data(), piece.size(), MSG_NOSIGNAL);
      sent += std::max<ssize_t>(taken, 0);
      quiet = taken > 0 ? 0 : quiet + 1;
      if (taken <= 0) Settle();
    }
    filled_ = sent;
  }
  void Empty(int fd) {
    std::string piece(65536, ' ');
    int64_t received = 0;
    for (int quiet = 0; quiet < 2;) {
      const ssize_t got = kernel_.Recv(fd, piece.data(), piece.size(), 0);
      received += std::max<ssize_t>(got, 0);
      quiet = got > 0 ? 0 : quiet + 1;
      if (got <= 0) Settle();
    }
    Say(received == filled_ ? "all arrived" : "not all arrived");
  }

  void Shutdown(int fd) { Say("shutdown: " + Value(kernel_.Shutdown(fd, SHUT_WR))); }
  void Close(int& fd) {
    kernel_.Close(fd);
    fd = -1;
  }
  void Abort(int& fd) {
    const linger now = {.l_onoff = 1, .l_linger = 0};
    EXPECT_EQ(kernel_.SetSockOpt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    Close(fd);
  }
  void CloseListener() { Close(listener_); }

  void PeerName(int fd) {
    sockaddr_in name;
    socklen_t size = sizeof name;
    Say("getpeername: " + Value(kernel_.GetPeerName(fd, AsSockaddr(name), &size)));
  }
  void SoError(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    EXPECT_EQ(kernel_.GetSockOpt(fd, SOL_SOCKET, SO_ERROR, &error, &size), 0);
    Say("SO_ERROR: " + Value(-error));
  }
  void Unread(int fd) { Queue(fd, SIOCINQ, "SIOCINQ: "); }
  void Unsent(int fd) { Queue(fd, SIOCOUTQ, "SIOCOUTQ: "); }

  const std::string& told() const { return told_; }

  int a = -1;  // the connecting end
  int b = -1;  // the accepted one

 private:
  template <class Address>
  static sockaddr* AsSockaddr(Address& address) {
    return reinterpret_cast<sockaddr*>(&address);
  }

  void Say(const std::string& what) { told_ += what + "\n"; }
  static std::string Value(ssize_t value) {
    return value < 0 ? strerrorname_np(static_cast<int>(-value)) : std::to_string(value);
  }

  void Splice(const std::string& direction, int from, int to, size_t size) {
    ssize_t total = 0;
    ssize_t moved = 0;
    do {
      moved = kernel_.Splice(from, to, size - total, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
      total += std::max<ssize_t>(moved, 0);
    } while (moved > 0 && total < static_cast<ssize_t>(size));
    in_pipe_ += to == pipe_[1] ? total : -total;
    Say("spliced " + direction + ": " + std::to_string(total) + ", then " + Value(moved));
  }

  void Add(int epoll, int fd) {
    epoll_event event = {};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
    EXPECT_EQ(kernel_.EpollCtl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
  }

  uint32_t Holds(int fd) {
    const int fresh = kernel_.EpollCreate(EPOLL_CLOEXEC);
    Add(fresh, fd);
    const timespec now = {0, 0};
    epoll_event event = {};
    const int count = kernel_.EpollWait(fresh, &event, 1, &now);
    kernel_.Close(fresh);
    return count == 1 ? event.events : 0;
  }

  void Queue(int fd, unsigned long which, const char* name) {
    int bytes = 0;
    EXPECT_EQ(kernel_.Ioctl(fd, which, &bytes), 0);
    Say(name + std::to_string(bytes));
  }

  const Kernel& kernel_;
  int pipe_[2] = {-1, -1};
  size_t in_pipe_ = 0;
  int listener_ = -1;
  int edges_ = -1;
  sockaddr_in address_ = {};
  int64_t filled_ = 0;
  std::string told_;
};

struct Case {
  const char* name;
  void (*tell)(Teller&);
};

constexpr Case kCases[] = {
    {"AFinAndThenWriting",
     [](Teller& t) {
       t.Watch(t.a);
       t.Close(t.b);
       t.Edges();
       t.Receive(t.a);
       t.Receive(t.a);
       t.Send(t.a, "one");
       t.Edges();
       t.PeerName(t.a);
       t.Send(t.a, "two");
       t.Receive(t.a);
       t.State(t.a);
     }},
    {"FinBothWays",
     [](Teller& t) {
       t.Watch(t.a);
       t.Shutdown(t.a);
       t.Edges();
       t.PeerName(t.a);
       t.Receive(t.b);
       t.Close(t.b);
       t.Edges();
       t.Receive(t.a);
       t.PeerName(t.a);
       t.Send(t.a, "late");
     }},
    {"TheOtherFinFirst",
     [](Teller& t) {
       t.Watch(t.a);
       t.Shutdown(t.b);
       t.Edges();
       t.Shutdown(t.a);
       t.Edges();
       t.Receive(t.a);
       t.Receive(t.b);
       t.PeerName(t.a);
     }},
    {"AReset",
     [](Teller& t) {
       t.Watch(t.a);
       t.Abort(t.b);
       t.Edges();
       t.PeerName(t.a);
       t.Receive(t.a);
       t.Receive(t.a);
       t.Send(t.a, "late");
       t.State(t.a);
     }},
    {"AResetToldToAWriter",
     [](Teller& t) {
       t.Abort(t.b);
       t.Settle();
       t.Send(t.a, "late");
       t.Send(t.a, "later");
       t.Receive(t.a);
       t.State(t.a);
     }},
    {"AResetBySoError",
     [](Teller& t) {
       t.Abort(t.b);
       t.Settle();
       t.SoError(t.a);
       t.SoError(t.a);
       t.Receive(t.a);
     }},
    {"ClosedWithUnreadInput",
     [](Teller& t) {
       t.Watch(t.a);
       t.Send(t.a, "unread");
       t.Settle();
       t.Unread(t.b);
       t.Close(t.b);
       t.Edges();
       t.Receive(t.a);
     }},
    {"DataThenAReset",
     [](Teller& t) {
       t.Watch(t.a);
       t.Send(t.b, "data");
       t.Settle();
       t.Abort(t.b);
       t.Edges();
       t.Unread(t.a);
       t.Receive(t.a);
       t.Receive(t.a);
       t.Receive(t.a);
     }},
    {"AFinThenAReset",
     [](Teller& t) {
       t.Shutdown(t.b);
       t.Settle();
       t.Abort(t.b);
       t.Settle();
       t.State(t.a);
       t.SoError(t.a);
       t.Receive(t.a);
       t.Send(t.a, "late");
     }},
    {"OurFinThenDataAndAFin",
     [](Teller& t) {
       t.Watch(t.a);
       t.Shutdown(t.a);
       t.Settle();
       t.Send(t.b, "data");
       t.Close(t.b);
       t.Edges();
       t.Receive(t.a);
       t.Receive(t.a);
     }},
    {"AnUrgentByteAlone",
     [](Teller& t) {
       t.Watch(t.a);
       t.Send(t.b, "!", MSG_OOB);
       t.Edges();
       t.Receive(t.a);
       t.State(t.a);
     }},
    {"AnUrgentByteAmongOthers",
     [](Teller& t) {
       t.Watch(t.a);
       t.Send(t.b, "before");
       t.Settle();
       t.Send(t.b, "!", MSG_OOB);
       t.Settle();
       t.Send(t.b, "after");
       t.Edges();
       t.Receive(t.a);
       t.State(t.a);
       t.Receive(t.a);
       t.Receive(t.a);
       t.State(t.a);
     }},
    {"ARefusedConnect",
     [](Teller& t) {
       t.Close(t.a);
       t.Close(t.b);
       t.CloseListener();
       t.Settle();
       t.StartConnect();
       t.Settle();
       t.State(t.a);
       t.PeerName(t.a);
       t.SoError(t.a);
       t.State(t.a);
       t.Receive(t.a);
     }},
    {"ASocketThatNeverConnected",
     [](Teller& t) {
       t.Close(t.a);
       t.a = t.NewSocket();
       t.State(t.a);
       t.PeerName(t.a);
     }},
    {"AConnectionResetBeforeItIsAccepted",
     [](Teller& t) {
       t.Close(t.b);
       t.Close(t.a);
       t.StartConnect();
       t.Settle();
       t.Abort(t.a);
       t.Settle();
       t.AcceptNext();
       t.PeerName(t.b);
       t.State(t.b);
       t.Receive(t.b);
     }},
    {"AListenerClosedWithAConnectionInItsQueue",
     [](Teller& t) {
       t.Close(t.b);
       t.Close(t.a);
       t.StartConnect();
       t.Settle();
       t.CloseListener();
       t.Settle();
       t.State(t.a);
       t.Receive(t.a);
     }},
    {"PeekingLeavesTheBytes",
     [](Teller& t) {
       t.Send(t.b, "data");
       t.Settle();
       t.Receive(t.a, 2, MSG_PEEK);
       t.Receive(t.a, 100, MSG_PEEK);
       t.Receive(t.a);
       t.Receive(t.a, 100, MSG_PEEK);
     }},
    {"AReadGetsAllThatHasCome",
     [](Teller& t) {
       t.Send(t.b, "one ");
       t.Settle();
       t.Send(t.b, "two");
       t.Settle();
       t.Receive(t.a);
       t.Receive(t.a);
     }},
    {"SplicingMovesBytes",
     [](Teller& t) {
       t.SpliceFrom(t.a);
       t.Send(t.b, "data");
       t.Settle();
       t.SpliceFrom(t.a);
       t.SpliceTo(t.a);
       t.Settle();
       t.Receive(t.b);
       t.Shutdown(t.b);
       t.Settle();
       t.SpliceFrom(t.a);
     }},
    {"SplicingStopsAtAnUrgentMark",
     [](Teller& t) {
       t.Send(t.b, "one");
       t.Settle();
       t.Send(t.b, "!", MSG_OOB);
       t.Settle();
       t.Send(t.b, "two");
       t.Settle();
       t.SpliceFrom(t.a);
       t.SpliceFrom(t.a);
       t.Receive(t.a);
       t.SpliceFrom(t.a);
     }},
    {"SplicingTakesAnUrgentMarkBeforeAFinForTheEnd",
     [](Teller& t) {
       t.Send(t.b, "!", MSG_OOB);
       t.Settle();
       t.Send(t.b, "two");
       t.Shutdown(t.b);
       t.Settle();
       t.SpliceFrom(t.a);
       t.Receive(t.a);
       t.Receive(t.a);
     }},
    {"SplicingAfterAReset",
     [](Teller& t) {
       t.Send(t.b, "data");
       t.Settle();
       t.SpliceFrom(t.a);
       t.Abort(t.b);
       t.Settle();
       t.SpliceFrom(t.a);
       t.SpliceTo(t.a);
     }},
    {"SplicingIntoAReset",
     [](Teller& t) {
       t.Send(t.b, "data");
       t.Settle();
       t.SpliceFrom(t.a);
       t.Abort(t.b);
       t.Settle();
       t.SpliceTo(t.a);
       t.SpliceFrom(t.a);
     }},
    {"AFullSendQueue",
     [](Teller& t) {
       t.Fill(t.a);
       t.State(t.a);
       t.Watch(t.a);
       t.Empty(t.b);
       t.Edges();
       t.Unsent(t.a);
     }},
    {"AResetWithAFullSendQueue",
     [](Teller& t) {
       t.Fill(t.a);
       t.Watch(t.a);
       t.Abort(t.b);
       t.Edges();
       t.Receive(t.a);
       t.Send(t.a, "late");
     }},
    {"AResetThrowsTheSendQueueAway",
     [](Teller& t) {
       t.Fill(t.a);
       t.Abort(t.a);
       t.Settle();
       t.Empty(t.b);
       t.Receive(t.b);
     }},
    {"AConnectsSourceIsBoundWithoutAPort", [](Teller& t) { t.BindWithoutPort(); }},
    {"NothingNewNoEdge",
     [](Teller& t) {
       t.Watch(t.a);
       t.Edges();
       t.Send(t.b, "data");
       t.Edges();
       t.Edges();
       t.Receive(t.a, 2);
       t.Edges();
       t.Send(t.b, "more");
       t.Edges();
     }},
};

std::string RealTells(const Case& c) {
  signal(SIGPIPE, SIG_IGN);  // splice has no MSG_NOSIGNAL
  const Kernel kernel;
  Teller teller(kernel);
  c.tell(teller);
  return teller.told();
}

std::string SimulatedTells(const Case& c) {
  OneThreadHost host(/*seed=*/1);
  Network network(host, Network::Options());
  SimKernel simulated(network, SimKernel::Options());
  const Kernel kernel(&simulated);
  std::string told;
  {
    Teller teller(kernel);
    c.tell(teller);
    told = teller.told();
  }
  EXPECT_EQ(simulated.open_descriptors(), 0);
  return told;
}

class SimKernelTest : public testing::TestWithParam<Case> {};

TEST_P(SimKernelTest, TellsTheSameAsTheRealOne) {
  const std::string real = RealTells(GetParam());
  EXPECT_EQ(SimulatedTells(GetParam()), real);
}

INSTANTIATE_TEST_SUITE_P(Edges, SimKernelTest, testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace netpoll::sim
