// SPDX-License-Identifier: Apache-2.0
//
// A stream connection (TCP or Unix) for straight-line code on fibers. One fiber may read while
// another writes; further readers and writers wait in line. Everything here is for fibers only and
// blocks the fiber, never the worker.
//
//   netpoll::Conn conn(poller);
//   if (!conn.Connect(endpoint, sched::Now() + 5s).ok()) return;
//   conn.Write(request);
//   for (IoResult got; (got = conn.Read(buffer)).ok();) Use(buffer.first(got.bytes));
//
// A process that uses TrySplice must ignore SIGPIPE; all else here sends with MSG_NOSIGNAL.
#ifndef PARKWAY_NETPOLL_CONN_H_
#define PARKWAY_NETPOLL_CONN_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "netpoll/endpoint.h"
#include "netpoll/internal/socket.h"
#include "netpoll/io_result.h"
#include "netpoll/pipe.h"
#include "netpoll/socket_options.h"
#include "sched/clock.h"

namespace netpoll {

class Poller;

class Conn {
  using Direction = internal::Direction;

 public:
  // Closed: every operation returns kClosed.
  Conn() = default;
  // Not connected yet; Close() from another fiber already ends a Connect().
  explicit Conn(Poller& poller) : socket_(poller, -1) {}
  // Owns the connected, non-blocking descriptor `fd` of address family `family`.
  Conn(Poller& poller, int fd, int family) : socket_(poller, fd), is_tcp_(family != AF_UNIX) {}
  // Moving is for connections nobody is blocked in.
  Conn(Conn&&) noexcept = default;
  Conn& operator=(Conn&&) noexcept = default;
  ~Conn() = default;  // closes

  // The calling worker's poller serves it from here on, instead of that of the worker where it was
  // accepted. REQUIRES: it is `poller`'s and open, and nobody has read, written or waited in it
  // yet.
  void MoveToThisWorker(Poller& poller) { socket_.MoveToThisWorker(poller); }

  // Connects; tells TCP to send without delay. Errors: kTimeout at `deadline`, kClosed by Close(),
  // kReset or kError with the errno (ECONNREFUSED is kError; EADDRNOTAVAIL: options.source has no
  // free port for `to`, or is no address of this machine any more). After an error, but not
  // kClosed, Connect may be tried again. `options` mean nothing to a Unix socket. `begun`, if there
  // is one, is called when the kernel has begun to connect, so that local() says from where; it
  // must not block.
  IoResult Connect(const Endpoint& to, sched::Deadline deadline,
                   const ConnectOptions& options = ConnectOptions(),
                   const std::function<void()>* begun = nullptr);
  // Not connected: blocks until GiveTurn() (kOk), `deadline` (kTimeout) or Close() (kClosed). For
  // those that have to wait before they may connect. A turn given before is not lost.
  IoResult AwaitTurn(sched::Deadline deadline);
  // From any fiber; never blocks.
  void GiveTurn();

  // One direction of a connection, held: nobody else reads (or writes) while one exists. What a
  // loop over many operations takes once; the operations of Conn below take it for one call each.
  // Constructing it waits in line for the direction; on a closed connection its operations return
  // kClosed. It must end before its Conn does.
  class Reader {
   public:
    explicit Reader(Conn& conn) : conn_(conn), hold_(conn.socket_, Direction::kRead) {}
    // The one that another fiber held when it hibernated, and could not give up.
    Reader(Conn& conn, Hibernated hibernated)
        : conn_(conn), hold_(conn.socket_, Direction::kRead, hibernated) {}
    // False: the connection was closed.
    explicit operator bool() const { return static_cast<bool>(hold_); }

    // At least one byte, or kEof, kTimeout, kClosed, kReset, kError. An empty buffer returns at
    // once.
    IoResult Read(std::span<std::byte> buffer);
    IoResult Readv(std::span<const iovec> buffers);
    // Blocks until a read is likely to find something (bytes, the end, an error). A hint: TryRead
    // may still say kAgain. Needs no buffer meanwhile, and costs no system call when something may
    // be left from before.
    IoResult AwaitReadable();
    // Before the first read of a connection just accepted, whose bytes mostly come a little later:
    // AwaitReadable then waits to be told, which saves the system call that would find nothing.
    void ExpectNothing() {
      if (hold_) conn_.queue_ = Queue::kDrained;
    }
    // As AwaitReadable, but where that would block, the fiber hibernates (sched/park.h), and does
    // not return. `continuation` then makes a Reader(conn, Hibernated()) and first of all calls
    // Woken; everything else that its fiber held is still held, too.
    IoResult AwaitReadableOr(sched::Continuation& hibernate);
    // What AwaitReadable would have returned; or kAgain, then call it again.
    IoResult Woken();
    // As Read, but kAgain instead of waiting, and whatever the deadline: bytes that came are there.
    IoResult TryRead(std::span<std::byte> buffer);
    // As TryRead, but the bytes stay where they are: the next read finds them again.
    IoResult TryPeek(std::span<std::byte> buffer);
    // After TryPeek, whose bytes are still there: blocks until there may be more than it saw; a
    // hint. kEof: the end, or an urgent mark, was announced, so that another look sees all there
    // will be.
    IoResult AwaitMore();
    // Waiting ends when so many bytes are there, or their end, and not before (SO_RCVLOWAT; without
    // effect on Unix sockets). 1, as at first, for any. Lets the kernel's buffer grow, if nobody
    // fixed its size. Costs a system call.
    void WakeAt(size_t bytes);
    // As TryRead, but the bytes go into `pipe`, as many as it has room for. REQUIRES: CanSplice(),
    // and an empty pipe.
    IoResult TrySplice(Pipe& pipe);
    // TCP, and no urgent mark was seen: at one, splicing finds nothing for ever, while reading
    // passes over it.
    bool CanSplice() const { return hold_ && conn_.CanSplice(); }

   private:
    Conn& conn_;
    const internal::Socket::Hold hold_;
  };

  class Writer {
   public:
    explicit Writer(Conn& conn) : conn_(conn), hold_(conn.socket_, Direction::kWrite) {}
    // As Reader's.
    Writer(Conn& conn, Hibernated hibernated)
        : conn_(conn), hold_(conn.socket_, Direction::kWrite, hibernated) {}
    explicit operator bool() const { return static_cast<bool>(hold_); }

    // All of `data`, or an error and how much went out before it.
    IoResult Write(std::span<const std::byte> data);
    IoResult Writev(std::span<const iovec> buffers);
    // What the kernel takes now, at least one byte, or kAgain and 0.
    IoResult TryWrite(std::span<const std::byte> data);
    // As TryWrite, of what is in `pipe`.
    IoResult TrySplice(Pipe& pipe);
    // Blocks until a write is likely to be taken. A hint, and also woken when a connection named by
    // AlsoWakeFor breaks. Call it after TryWrite said kAgain.
    IoResult AwaitWritable();
    // Sends FIN after what was written; reading goes on.
    IoResult ShutdownWrite();

   private:
    Conn& conn_;
    const internal::Socket::Hold hold_;
  };

  // As the members of Reader and Writer, each holding its direction for the one call.
  IoResult Read(std::span<std::byte> buffer) { return Reader(*this).Read(buffer); }
  IoResult Readv(std::span<const iovec> buffers) { return Reader(*this).Readv(buffers); }
  IoResult AwaitReadable() { return Reader(*this).AwaitReadable(); }
  IoResult TryRead(std::span<std::byte> buffer) { return Reader(*this).TryRead(buffer); }
  IoResult Write(std::span<const std::byte> data) { return Writer(*this).Write(data); }
  IoResult Writev(std::span<const iovec> buffers) { return Writer(*this).Writev(buffers); }
  IoResult TryWrite(std::span<const std::byte> data) { return Writer(*this).TryWrite(data); }
  IoResult AwaitWritable() { return Writer(*this).AwaitWritable(); }
  IoResult ShutdownWrite() { return Writer(*this).ShutdownWrite(); }

  // Instants after which operations of that direction return kTimeout, also one that blocks now.
  // kNever: none (the default). Moving a deadline later costs no system call and no lock. From any
  // fiber.
  void SetReadDeadline(sched::Deadline when) {
    socket_.SetDeadline(internal::Direction::kRead, when);
  }
  void SetWriteDeadline(sched::Deadline when) {
    socket_.SetDeadline(internal::Direction::kWrite, when);
  }

  // Ends all operations, here with kClosed, and closes the socket: FIN if all input was read, else
  // RST. From any fiber, any number of times.
  void Close() { socket_.Close(); }
  // Closes with RST and throws away what was written and not yet acknowledged. From any fiber, but
  // Close() ends a Connect.
  void Abort() { socket_.Abort(); }

  // For relays: AwaitWritable on `this` returns when `source` breaks, also if nobody has waited for
  // `source` yet. Both must be open.
  void AlsoWakeFor(Conn& source);
  // The poller has seen an error, such as a reset. What arrived before can still be read. FIN in
  // both directions is none; nor is an error that an operation was told of before the poller
  // looked.
  bool broken();
  // TCP: a reset has ended the connection, and the poller saw no FIN before it. The kernel tells
  // one operation of a reset; if that was a write, a read then finds an end like that of a FIN. Not
  // to be asked after ShutdownWrite, when a FIN of the peer has the same effect.
  bool was_reset();
  // Bytes written and not yet acknowledged by the peer (SIOCOUTQ), or -1. Like the addresses below,
  // not while another fiber connects.
  int64_t unsent_bytes();
  // Bytes that came and were not read yet (SIOCINQ), or -1. Likewise.
  int64_t unread_bytes();

  bool closed() const { return socket_.closed(); }
  // Empty when the peer is gone already.
  Endpoint peer();
  Endpoint local();
  // Of an accepted connection that a packet filter of this machine redirected here (REDIRECT,
  // DNAT): where it was going. Empty: the kernel knows nothing of it. One that came directly says
  // local(), or nothing. `family`: of local(), AF_INET where that is an IPv4 address of an IPv6
  // socket.
  Endpoint original_destination(int family);

 private:
  // Every so many wake-ups it is looked at where it runs: twice in a row on another worker than its
  // shard's, and the connection moves there.
#ifdef PARKWAY_INTERLEAVE
  static constexpr uint8_t kWakesPerLook = 1;  // simulated connections are woken a few times only
#else
  static constexpr uint8_t kWakesPerLook = 16;
#endif

  // What the last read said about the kernel's queue. Belongs to the reader.
  enum class Queue : uint8_t {
    kUnknown,  // something may be there: ask the kernel
    kDrained,  // a read returned less than asked (TCP), or none was made since a connect that was
               // waited for: an edge will tell of more, unless the end was seen
    kWouldBlock,  // the kernel said EAGAIN
  };

  template <class Call>
  IoResult TryReadHeld(size_t asked, Call call);
  template <class Call>
  IoResult ReceiveHeld(size_t asked, Call call);
  template <class Call>
  IoResult ReadHeld(size_t asked, Call call);
  template <class Wait>
  IoResult AwaitReadableBy(Wait wait);
  IoResult AwaitReadableHeld();
  void LookWhereItRuns();
  IoResult SendHeld(std::span<const std::byte> data);
  IoResult SendvHeld(std::span<iovec> buffers);
  IoResult ConnectHeld(const Endpoint& to, sched::Deadline deadline, const ConnectOptions& options,
                       const std::function<void()>* begun);
  bool NoMoreEdges() const;
  bool CanSplice() const;
  int64_t BytesIn(unsigned long queue);
  Endpoint Name(int (Kernel::*ask)(int, sockaddr*, socklen_t*) const);

  internal::Socket socket_;
  bool is_tcp_ = true;
  Queue queue_ = Queue::kUnknown;
  // The reader's: how often it was woken, and whether another worker than its shard's ran it when
  // that was last looked at.
  uint8_t wakes_ = 0;
  bool away_ = false;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_CONN_H_
