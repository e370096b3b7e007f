// SPDX-License-Identifier: Apache-2.0
//
// What the floors for a proxy share: a session has two ends, 0 = client and 1 = backend. What end i
// sends flows to end 1 - i; what the kernel did not take of it is held at end i, and end i is not
// read meanwhile. The end of a stream passes on as a FIN once everything before it was taken; the
// session ends when both have passed.

#ifndef PARKWAY_BENCH_LIMIT_PROXY_H_
#define PARKWAY_BENCH_LIMIT_PROXY_H_

#include <stddef.h>

struct Session;

struct End {
  struct Session* session;
  int fd;
  int ending;    // RDHUP, HUP or ERR was seen: a short read may be the last.
  int finished;  // Its stream has ended and the FIN was passed on.
  size_t held;   // Bytes this end sent that the other end did not take yet.
  void* store;   // What Relay keeps here; NULL at first.
};

struct Session {
  struct End end[2];
  int connecting;
  int client_spoke;  // While connecting: its event is over, so reading it needs no other.
  int dead;
  struct Session* next_dead;
};

static inline struct End* Other(struct End* end) {
  return &end->session->end[end == &end->session->end[0]];
}

// Passes the end of the stream on. Returns 0 when it was the second one: the session is over.
int Finish(struct End* from);

// copy.c or splice.c: moves bytes until `from` is drained or the other end is full. Returns 0 when
// the session is over.
int Relay(struct End* from);
// Frees what Relay keeps at an end.
void FreeStore(struct End* end);

#endif  // PARKWAY_BENCH_LIMIT_PROXY_H_
