// SPDX-License-Identifier: Apache-2.0
#include "netpoll/io_result.h"

#include <cerrno>
#include <string>
#include <system_error>

namespace netpoll {

const char* ToString(IoStatus status) {
  switch (status) {
    case IoStatus::kOk:
      return "ok";
    case IoStatus::kEof:
      return "end of stream";
    case IoStatus::kAgain:
      return "would block";
    case IoStatus::kTimeout:
      return "timed out";
    case IoStatus::kClosed:
      return "closed";
    case IoStatus::kReset:
      return "connection reset";
    case IoStatus::kError:
      return "error";
  }
  return "?";
}

IoResult IoResult::FromErrno(int os_error, size_t bytes) {
  switch (os_error) {
    case 0:
      return {bytes};
    case EAGAIN:
      return {bytes, IoStatus::kAgain, os_error};
    case ECONNRESET:
    case EPIPE:
    case ETIMEDOUT:     // keepalive or retransmission gave up
    case ENOTCONN:      // reset before it was accepted
    case ECONNABORTED:  // by this machine's administrator (ss -K), or its address went
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
      return {bytes, IoStatus::kReset, os_error};
    default:
      return {bytes, IoStatus::kError, os_error};
  }
}

bool IoResult::is_local() const {
  switch (os_error) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC:  // epoll's watches
    case EADDRNOTAVAIL:
    case EACCES:
    case EPERM:  // a security module or a packet filter forbids it
      return true;
    default:
      return false;
  }
}

std::string IoResult::Reason() const {
  return os_error != 0 ? std::system_category().message(os_error) : ToString(status);
}

absl::Status IoResult::ToStatus(std::string_view what) const {
  if (ok()) return absl::OkStatus();
  const std::string message = std::string(what) + ": " + Reason();
  if (status == IoStatus::kTimeout) return absl::DeadlineExceededError(message);
  if (status == IoStatus::kClosed) return absl::CancelledError(message);
  return absl::UnavailableError(message);
}

}  // namespace netpoll
