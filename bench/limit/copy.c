// SPDX-License-Identifier: Apache-2.0
//
// The copying proxy's way to move bytes: a receive and a send each, through one buffer for all.
// The rules of edge-triggered reading are those of echo.c.

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "bench/limit/proxy.h"
#include "bench/limit/tcp.h"

enum { kBufferSize = 64 * 1024 };

struct Held {
  size_t at;
  char bytes[];
};

static char scratch[kBufferSize];

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
  struct Held* held = malloc(sizeof *held + size);
  if (held == NULL) Die("malloc");
  memcpy(held->bytes, data, size);
  held->at = 0;
  from->store = held;
  from->held = size;
}

// Returns 1 when nothing is held any more, 0 when the other end must read first, -1 on an error.
static int Flush(struct End* from) {
  struct Held* held = from->store;
  const ssize_t n = Send(Other(from)->fd, held->bytes + held->at, from->held);
  if (n < 0) return -1;
  held->at += (size_t)n;
  from->held -= (size_t)n;
  if (from->held > 0) return 0;
  FreeStore(from);
  return 1;
}

void FreeStore(struct End* end) {
  free(end->store);
  end->store = NULL;
}

int Relay(struct End* from) {
  if (from->held > 0) {
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
