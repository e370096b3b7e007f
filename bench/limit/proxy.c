// SPDX-License-Identifier: Apache-2.0
//
// The floor for a TCP proxy: one thread, edge-triggered epoll, nothing else. It has no limits,
// timers, logs or drain; it is what a real proxy is compared against, not a real proxy. How it
// moves bytes is copy.c or splice.c.
// Usage: proxy PORT BACKEND_HOST BACKEND_PORT

#define _GNU_SOURCE
#include "bench/limit/proxy.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "bench/limit/tcp.h"

enum { kBatch = 256 };

static struct sockaddr_in backend;
// A batch of events may still name both ends of a closed session: freed after the batch.
static struct Session* dead_sessions;

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
    FreeStore(&session->end[0]);
    FreeStore(&session->end[1]);
    free(session);
  }
}

// Passes the end of the stream on. Returns 0 when it was the second one: the session is over.
int Finish(struct End* from) {
  from->finished = 1;
  if (Other(from)->finished) return 0;
  shutdown(Other(from)->fd, SHUT_WR);
  return 1;
}

// The backend answered the connect: what the client has sent so far can go. Returns 0 on failure.
static int Connected(struct Session* session) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(session->end[1].fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
    return 0;
  }
  session->connecting = 0;
  return !session->client_spoke || Relay(&session->end[0]);
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
  if ((events & EPOLLOUT) && other->held > 0 && !Relay(other)) return 0;
  if (((events & EPOLLIN) || end->ending) && end->held == 0 && !end->finished) return Relay(end);
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
  signal(SIGPIPE, SIG_IGN);  // splice has no MSG_NOSIGNAL
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
