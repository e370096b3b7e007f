// SPDX-License-Identifier: Apache-2.0
//
// The splicing proxy's way to move bytes: from socket to pipe to socket, so that user space sees
// none. Each end keeps its pipe. A short splice says nothing about the socket, since a pipe is also
// full when its slots are: an end is drained when the kernel says EAGAIN.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "bench/limit/proxy.h"
#include "bench/limit/tcp.h"

enum { kPipeSize = 512 * 1024 };

struct Pipe {
  int read;
  int write;
};

static struct Pipe* PipeOf(struct End* end) {
  if (end->store != NULL) return end->store;
  int fds[2];
  struct Pipe* made = malloc(sizeof *made);
  if (made == NULL || pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) Die("pipe2");
  if (fcntl(fds[1], F_SETPIPE_SZ, kPipeSize) < 0) Die("F_SETPIPE_SZ");
  *made = (struct Pipe){.read = fds[0], .write = fds[1]};
  end->store = made;
  return made;
}

void FreeStore(struct End* end) {
  struct Pipe* kept = end->store;
  if (kept == NULL) return;
  close(kept->read);
  close(kept->write);
  free(kept);
}

// Returns 1 when the pipe is empty, 0 when the other end must read first, -1 on an error.
static int Flush(struct End* from) {
  const struct Pipe* through = PipeOf(from);
  while (from->held > 0) {
    const ssize_t n = splice(through->read, NULL, Other(from)->fd, NULL, from->held,
                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n > 0) {
      from->held -= (size_t)n;
    } else if (errno == EAGAIN) {
      return 0;
    } else if (errno != EINTR) {
      return -1;
    }
  }
  return 1;
}

int Relay(struct End* from) {
  for (;;) {
    const int flushed = Flush(from);
    if (flushed <= 0) return flushed == 0;
    const ssize_t n = splice(from->fd, NULL, PipeOf(from)->write, NULL, kPipeSize,
                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n == 0) return Finish(from);
    if (n > 0) {
      from->held = (size_t)n;
    } else if (errno != EINTR) {
      return errno == EAGAIN;
    }
  }
}
