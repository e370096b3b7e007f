// SPDX-License-Identifier: Apache-2.0
//
// What both floors share: the listener and the words of an early end. Loopback only.

#ifndef PARKWAY_BENCH_LIMIT_TCP_H_
#define PARKWAY_BENCH_LIMIT_TCP_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static inline void Die(const char* what) {
  perror(what);
  exit(1);
}

static inline struct sockaddr_in Address(const char* host, const char* port) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  char* end;
  const unsigned long number = strtoul(port, &end, 10);
  if (*port == '\0' || *end != '\0' || number == 0 || number > 65535 ||
      inet_pton(AF_INET, host, &address.sin_addr) != 1) {
    fprintf(stderr, "not an IPv4 address and port: %s:%s\n", host, port);
    exit(2);
  }
  address.sin_port = htons((uint16_t)number);
  return address;
}

// A non-blocking listener on 127.0.0.1. TCP_NODELAY is inherited by what it accepts.
static inline int Listen(const char* port) {
  const struct sockaddr_in address = Address("127.0.0.1", port);
  const int on = 1;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) Die("socket");
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) {
    Die("setsockopt");
  }
  if (bind(fd, (const struct sockaddr*)&address, sizeof address) < 0) Die("bind");
  if (listen(fd, 4096) < 0) Die("listen");
  return fd;
}

#endif  // PARKWAY_BENCH_LIMIT_TCP_H_
