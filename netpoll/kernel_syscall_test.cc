// SPDX-License-Identifier: Apache-2.0
//
// The system call instruction alone, without the test framework, so that it can also be
// cross-compiled and run under an emulator (sched/testing/arm64_test.sh).
#include "netpoll/kernel_syscall.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "sched/testing/require.h"

namespace {

using netpoll::internal::RawSyscall;
using netpoll::internal::ThreadErrno;

void SixArgumentsReachTheKernelAndItsAnswerComesBack() {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const char sent[] = "six arguments";
  REQUIRE(RawSyscall(SYS_sendto, pair[0], reinterpret_cast<long>(sent), sizeof sent, MSG_NOSIGNAL,
                     0, 0) == sizeof sent);
  char received[sizeof sent] = {};
  REQUIRE(RawSyscall(SYS_recvfrom, pair[1], reinterpret_cast<long>(received), sizeof received,
                     MSG_DONTWAIT, 0, 0) == sizeof sent);
  REQUIRE(std::strcmp(sent, received) == 0);
  REQUIRE(RawSyscall(SYS_recvfrom, pair[1], reinterpret_cast<long>(received), sizeof received,
                     MSG_DONTWAIT) == -EAGAIN);
  close(pair[0]);
  close(pair[1]);
}

void AnErrorIsInTheAnswerAndNotInErrno() {
  errno = ENOTTY;
  REQUIRE(RawSyscall(SYS_sendto, -1, 0, 0, 0) == -EBADF);
  REQUIRE(errno == ENOTTY);
  REQUIRE(ThreadErrno() == ENOTTY);
}

}  // namespace

int main() {
  SixArgumentsReachTheKernelAndItsAnswerComesBack();
  AnErrorIsInTheAnswerAndNotInErrno();
  std::printf("passed\n");
  return 0;
}
