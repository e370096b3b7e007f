// SPDX-License-Identifier: Apache-2.0
//
// The system calls of one simulated process on a simulated network: descriptors, IPv4 stream
// sockets, edge-triggered epoll, eventfd. Every call may let other threads run first, and fails or
// is cut short as the options say.
#ifndef PARKWAY_NETPOLL_SIM_SIM_KERNEL_H_
#define PARKWAY_NETPOLL_SIM_SIM_KERNEL_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "netpoll/kernel.h"
#include "netpoll/sim/network.h"

namespace netpoll::sim {

class SimKernel final : public KernelCalls {
 public:
  struct Options {
    int descriptors = 20000;  // RLIMIT_NOFILE
    int connect_error = 0;    // what every connect fails with at once
    int ports = 0;            // that each source address has for each port; 0: no end of them
    // Since the start: when the system's table of open files is full, and when not any more.
    sched::Duration table_full_from{0};
    sched::Duration table_full_until{0};
    int led_back_to = 0;  // the port at which every connect arrives, by a packet filter; 0: none
    // Chances in 1024.
    int interrupted_chance = 0;            // a call that may block returns -EINTR
    int spurious_event_chance = 0;         // a wait also reports a socket where nothing changed
    int late_event_chance = 0;             // an event is held back
    sched::Duration late_max{0};           // for so long at most
    int held_poll_chance = 0;              // a poll is slow, before or after it collects
    sched::Duration held_max{0};           // and takes so long at most
    int shortage_chance = 0;               // a call that needs memory or a table entry finds none
    int failed_send_chance = 0;            // a send does, which is no end of its connection
    size_t pipe_bytes = size_t{64} << 10;  // what pipes have room for, whatever size they are given
  };

  SimKernel(Network& network, const Options& options);
  ~SimKernel() override;

  // How many descriptors are open; none should be at the end.
  int open_descriptors() const { return open_; }
  // Calls that named no open file: a number that was closed before.
  int64_t bad_descriptors() const { return bad_descriptors_; }
  // Calls that found the system's table full.
  int64_t table_full() const { return table_full_; }

  int Socket(int domain, int type, int protocol) override;
  int Bind(int fd, const sockaddr* address, socklen_t size) override;
  int Listen(int fd, int backlog) override;
  int Accept4(int fd, sockaddr* address, socklen_t* size, int flags) override;
  int Connect(int fd, const sockaddr* address, socklen_t size) override;
  ssize_t Recv(int fd, void* buffer, size_t size, int flags) override;
  ssize_t Send(int fd, const void* data, size_t size, int flags) override;
  ssize_t Readv(int fd, const iovec* buffers, int count) override;
  ssize_t Sendmsg(int fd, const msghdr* message, int flags) override;
  int Pipe2(int* fds, int flags) override;
  int SetPipeSize(int fd, int bytes) override;
  ssize_t Splice(int from, int to, size_t size, unsigned int flags) override;
  int Shutdown(int fd, int how) override;
  int Close(int fd) override;
  int GetSockOpt(int fd, int level, int name, void* value, socklen_t* size) override;
  int SetSockOpt(int fd, int level, int name, const void* value, socklen_t size) override;
  int GetSockName(int fd, sockaddr* address, socklen_t* size) override;
  int GetPeerName(int fd, sockaddr* address, socklen_t* size) override;
  int Ioctl(int fd, unsigned long request, int* value) override;
  int EpollCreate(int flags) override;
  int EpollCtl(int epfd, int operation, int fd, epoll_event* event) override;
  int EpollWait(int epfd, epoll_event* events, int count, const timespec* timeout) override;
  int EventFd(unsigned int initial, int flags) override;
  ssize_t ReadEvent(int fd, uint64_t* value) override;
  ssize_t WriteEvent(int fd, uint64_t value) override;
  int OpenReserve() override;
  int Lstat(const char* path, struct stat* status) override;
  int Unlink(const char* path) override;

 private:
  struct File;
  struct Watch;
  struct SocketFile;
  struct EventFile;
  struct EpollFile;
  struct PipeFile;

  template <class T>
  T* Find(int fd);
  int Install(std::unique_ptr<File> file);
  int EnterBlocking();  // at the start of a call: others may run; -EINTR now and then
  int Shortage();
  bool HasPort(uint32_t source, int remote_port) const;
  void HoldPoll();
  void Changed(File& file, uint32_t events);
  void MakeReady(Watch& watch);
  ssize_t FillPipe(TcpEnd& from, std::string& held, size_t size);
  ssize_t DrainPipe(std::string& held, TcpEnd& to, size_t size);
  int Collect(EpollFile& epoll, epoll_event* events, int count);
  void AddSpurious(EpollFile& epoll);

  Network& network_;
  sched::testing::OneThreadHost& host_;
  const Options options_;
  static constexpr int kFirstDescriptor = 3;
  std::vector<std::unique_ptr<File>> files_;  // by descriptor
  std::priority_queue<int, std::vector<int>, std::greater<>> free_;
  int open_ = 0;
  int64_t bad_descriptors_ = 0;
  const sched::Deadline start_;
  int64_t table_full_ = 0;
};

}  // namespace netpoll::sim

#endif  // PARKWAY_NETPOLL_SIM_SIM_KERNEL_H_
