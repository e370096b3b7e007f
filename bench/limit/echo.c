// SPDX-License-Identifier: Apache-2.0
//
// The floor for an echo server: one thread, edge-triggered epoll, one receive and one send per
// request, nothing else. It has no limits, timers, logs or drain; it is what a real server is
// compared against, not a real server. Usage: echo PORT
//
// Edge-triggered rules it keeps:
//   - a receive that filled less than the buffer has drained the socket, so it does not ask again,
//     unless the end of the stream was announced (RDHUP comes once: then read up to the end);
//   - it writes first and keeps only what the kernel did not take; while something is kept it does
//     not read, and when that is gone it reads on without waiting for an edge.

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/limit/tcp.h"

enum { kBufferSize = 64 * 1024, kBatch = 256 };

struct Conn {
  int fd;
  int ending;  // RDHUP, HUP or ERR was seen: the short-read rule is off.
  char* held;  // What the kernel did not take yet, or NULL.
  size_t held_at;
  size_t held_end;
};

static char scratch[kBufferSize];

static void Close(struct Conn* conn) {
  close(conn->fd);
  free(conn->held);
  free(conn);
}

// Sends until all is gone or the kernel takes no more. Returns the bytes taken, or -1 on an error.
static ssize_t Send(int fd, const char* data, size_t size) {
  size_t sent = 0;
  while (sent < size) {
    const ssize_t n = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
    if (n >= 0) {
      sent += (size_t)n;
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      return -1;
    }
  }
  return (ssize_t)sent;
}

static void Hold(struct Conn* conn, const char* data, size_t size) {
  conn->held = malloc(size);
  if (conn->held == NULL) Die("malloc");
  memcpy(conn->held, data, size);
  conn->held_at = 0;
  conn->held_end = size;
}

// Returns 1 when nothing is held any more, 0 when the peer must read first, -1 on an error.
static int Flush(struct Conn* conn) {
  const ssize_t n = Send(conn->fd, conn->held + conn->held_at, conn->held_end - conn->held_at);
  if (n < 0) return -1;
  conn->held_at += (size_t)n;
  if (conn->held_at < conn->held_end) return 0;
  free(conn->held);
  conn->held = NULL;
  return 1;
}

// Echoes until the socket is drained or full. Returns 0 when the connection is to be closed.
static int Echo(struct Conn* conn) {
  for (;;) {
    const ssize_t n = recv(conn->fd, scratch, sizeof scratch, 0);
    if (n == 0) return 0;
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN;
    }
    const ssize_t sent = Send(conn->fd, scratch, (size_t)n);
    if (sent < 0) return 0;
    if (sent < n) {
      Hold(conn, scratch + sent, (size_t)(n - sent));
      return 1;
    }
    if ((size_t)n < sizeof scratch && !conn->ending) return 1;
  }
}

static void Serve(struct Conn* conn, uint32_t events) {
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) conn->ending = 1;
  if (conn->held != NULL) {
    const int flushed = Flush(conn);
    if (flushed < 0) Close(conn);
    if (flushed <= 0) return;
  } else if (!(events & EPOLLIN) && !conn->ending) {
    return;  // Only writable, and nothing to write.
  }
  if (!Echo(conn)) Close(conn);
}

static void AcceptAll(int epoll, int listener) {
  for (;;) {
    const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    struct Conn* conn = calloc(1, sizeof *conn);
    if (conn == NULL) Die("calloc");
    conn->fd = fd;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = conn};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) Die("epoll_ctl");
  }
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: echo PORT\n");
    return 2;
  }
  const int listener = Listen(argv[1]);
  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) Die("epoll_create1");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) Die("epoll_ctl");
  struct epoll_event events[kBatch];
  for (;;) {
    const int n = epoll_wait(epoll, events, kBatch, -1);
    if (n < 0 && errno != EINTR) Die("epoll_wait");
    for (int i = 0; i < n; i++) {
      if (events[i].data.ptr == NULL) {
        AcceptAll(epoll, listener);
      } else {
        Serve(events[i].data.ptr, events[i].events);
      }
    }
  }
}
