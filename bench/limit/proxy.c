// SPDX-License-Identifier: Apache-2.0
//
// The floor for a copying TCP proxy: one thread, edge-triggered epoll, two receives and two sends
// per request and answer, nothing else. It has no limits, timers, logs or drain; it is what a real
// proxy is compared against, not a real proxy. Usage: proxy PORT BACKEND_HOST BACKEND_PORT
//
// A session has two ends, 0 = client and 1 = backend. What end i sends flows to end 1 - i; what the
// kernel did not take of it is held at end i, and end i is not read meanwhile. The end of a stream
// passes on as a FIN once everything before it was taken; the session ends when both have passed.
// The rules of edge-triggered reading are those of echo.c.

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/limit/tcp.h"

enum { kBufferSize = 64 * 1024, kBatch = 256 };

struct Session;

struct End {
  struct Session* session;
  int fd;
  int ending;    // RDHUP, HUP or ERR was seen: the short-read rule is off.
  int finished;  // Its stream has ended and the FIN was passed on.
  char* held;    // Bytes this end sent that the other end did not take yet, or NULL.
  size_t held_at;
  size_t held_end;
};

struct Session {
  struct End end[2];
  int connecting;
  int client_spoke;  // While connecting: its event is over, so reading it needs no other.
  int dead;
  struct Session* next_dead;
};

static char scratch[kBufferSize];
static struct sockaddr_in backend;
// A batch of events may still name both ends of a closed session: freed after the batch.
static struct Session* dead_sessions;

static struct End* Other(struct End* end) {
  return &end->session->end[end == &end->session->end[0]];
}

static void Close(struct Session* session) {
  close(session->end[0].fd);
  close(session->end[1].fd);
  session->dead = 1;
  session->next_dead = dead_sessions;
  dead_sessions = session;
}

static void FreeDead(void) {
  while (dead_sessions != NULL) {
    struct Session* session = dead_sessions;
    dead_sessions = session->next_dead;
    free(session->end[0].held);
    free(session->end[1].held);
    free(session);
  }
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

static void Hold(struct End* from, const char* data, size_t size) {
  from->held = malloc(size);
  if (from->held == NULL) Die("malloc");
  memcpy(from->held, data, size);
  from->held_at = 0;
  from->held_end = size;
}

// Returns 1 when nothing is held any more, 0 when the other end must read first, -1 on an error.
static int Flush(struct End* from) {
  const ssize_t n =
      Send(Other(from)->fd, from->held + from->held_at, from->held_end - from->held_at);
  if (n < 0) return -1;
  from->held_at += (size_t)n;
  if (from->held_at < from->held_end) return 0;
  free(from->held);
  from->held = NULL;
  return 1;
}

// Passes the end of the stream on. Returns 0 when it was the second one: the session is over.
static int Finish(struct End* from) {
  from->finished = 1;
  if (Other(from)->finished) return 0;
  shutdown(Other(from)->fd, SHUT_WR);
  return 1;
}

// Copies until `from` is drained or the other end is full. Returns 0 when the session is over.
static int Copy(struct End* from) {
  if (from->held != NULL) {
    const int flushed = Flush(from);
    if (flushed <= 0) return flushed == 0;
  }
  for (;;) {
    const ssize_t n = recv(from->fd, scratch, sizeof scratch, 0);
    if (n == 0) return Finish(from);
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN;
    }
    const ssize_t sent = Send(Other(from)->fd, scratch, (size_t)n);
    if (sent < 0) return 0;
    if (sent < n) {
      Hold(from, scratch + sent, (size_t)(n - sent));
      return 1;
    }
    if ((size_t)n < sizeof scratch && !from->ending) return 1;
  }
}

// The backend answered the connect: what the client has sent so far can go. Returns 0 on failure.
static int Connected(struct Session* session) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(session->end[1].fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
    return 0;
  }
  session->connecting = 0;
  return !session->client_spoke || Copy(&session->end[0]);
}

// Returns 0 when the session is over.
static int Serve(struct End* end, uint32_t events) {
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) end->ending = 1;
  if (end->session->connecting) {
    if (end == &end->session->end[0]) {
      end->session->client_spoke |= (events & EPOLLIN) || end->ending;
      return 1;
    }
    if (!Connected(end->session)) return 0;
  }
  if ((events & EPOLLHUP) && end->finished) return 0;  // Reset after its FIN: nobody reads.
  struct End* other = Other(end);
  if ((events & EPOLLOUT) && other->held != NULL && !Copy(other)) return 0;
  if (((events & EPOLLIN) || end->ending) && end->held == NULL && !end->finished) return Copy(end);
  return 1;
}

static void Watch(int epoll, struct End* end) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = end};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, end->fd, &event) < 0) Die("epoll_ctl");
}

static void Open(int epoll, int client) {
  const int on = 1;
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (server < 0) {
    close(client);
    return;
  }
  setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(server, (const struct sockaddr*)&backend, sizeof backend) < 0 &&
      errno != EINPROGRESS) {
    close(client);
    close(server);
    return;
  }
  struct Session* session = calloc(1, sizeof *session);
  if (session == NULL) Die("calloc");
  session->connecting = 1;
  session->end[0].session = session->end[1].session = session;
  session->end[0].fd = client;
  session->end[1].fd = server;
  Watch(epoll, &session->end[0]);
  Watch(epoll, &session->end[1]);
}

static void AcceptAll(int epoll, int listener) {
  for (;;) {
    const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    Open(epoll, fd);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: proxy PORT BACKEND_HOST BACKEND_PORT\n");
    return 2;
  }
  backend = Address(argv[2], argv[3]);
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
      struct End* end = events[i].data.ptr;
      if (end == NULL) {
        AcceptAll(epoll, listener);
      } else if (!end->session->dead && !Serve(end, events[i].events)) {
        Close(end->session);
      }
    }
    FreeDead();
  }
}
