// SPDX-License-Identifier: Apache-2.0
//
// A pipe for moving bytes from one connection to another inside the kernel (splice): between
// Reader::TrySplice and Writer::TrySplice its bytes lie here, and user space sees none.
//
//   if (reader.TrySplice(pipe).ok()) {
//     while (!pipe.empty()) ... writer.TrySplice(pipe) ...
//
// Used by one fiber at a time.
#ifndef PARKWAY_NETPOLL_PIPE_H_
#define PARKWAY_NETPOLL_PIPE_H_

#include <cstddef>
#include <utility>

#include "netpoll/kernel.h"

namespace netpoll {

class Pipe {
 public:
  // Of `bytes`, a power of two of pages. Not open when descriptors or memory have run out, or when
  // the user's pipes hold so much already that the kernel grants no more (pipe-user-pages-soft).
  // Never blocks.
  Pipe(const Kernel& kernel, size_t bytes);
  // What is still in it is lost.
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool is_open() const { return read_fd_ >= 0; }
  // Bytes that were spliced in and not yet out.
  size_t held() const { return held_; }
  bool empty() const { return held_ == 0; }

 private:
  friend class Conn;

  const Kernel& kernel_;
  const size_t capacity_;
  int read_fd_ = -1;
  int write_fd_ = -1;
  size_t held_ = 0;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_PIPE_H_
