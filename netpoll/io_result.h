// SPDX-License-Identifier: Apache-2.0
//
// How an operation on a connection ended.
#ifndef PARKWAY_NETPOLL_IO_RESULT_H_
#define PARKWAY_NETPOLL_IO_RESULT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace netpoll {

enum class IoStatus : uint8_t {
  kOk,
  kEof,      // the peer sent FIN: nothing more to read
  kAgain,    // only from the Try operations: it would have to wait
  kTimeout,  // the deadline passed; the connection is as it was
  kClosed,   // closed on this side, maybe by another fiber
  kReset,    // the peer reset the connection, or it broke: ECONNRESET, EPIPE, ETIMEDOUT ...
  kError,    // anything else: see os_error
};
const char* ToString(IoStatus status);

// 16 bytes, never allocates.
struct [[nodiscard]] IoResult {
  size_t bytes = 0;  // moved before `status` arose; valid with any status
  IoStatus status = IoStatus::kOk;
  int os_error = 0;  // errno for kReset and kError

  bool ok() const { return status == IoStatus::kOk; }

  // The result of a system call that failed with `os_error`, kOk if that is 0.
  static IoResult FromErrno(int os_error, size_t bytes = 0);

  // It failed for want of something on this machine (descriptors, memory, a free port, a
  // permission), which says nothing about the peer, and has not broken a connection.
  bool is_local() const;

  // What an operator reads: "Connection refused", or the status in words.
  std::string Reason() const;
  // For logs and start-up: "what: reason". OK if ok().
  absl::Status ToStatus(std::string_view what) const;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_IO_RESULT_H_
