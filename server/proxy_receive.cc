// SPDX-License-Identifier: Apache-2.0
#include "server/proxy_receive.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "netpoll/io_result.h"

namespace parkway {
namespace {

using netpoll::IoResult;
using netpoll::IoStatus;

EndReason ReasonOf(ProxyProblem problem) {
  switch (problem) {
    case ProxyProblem::kNone:
    case ProxyProblem::kIncomplete:
      return EndReason::kNone;
    case ProxyProblem::kNotAHeader:
      return EndReason::kProxyMissing;
    case ProxyProblem::kMalformed:
      return EndReason::kProxyMalformed;
    case ProxyProblem::kBadCommand:
      return EndReason::kProxyCommand;
    case ProxyProblem::kBadFamily:
      return EndReason::kProxyFamily;
    case ProxyProblem::kBadChecksum:
      return EndReason::kProxyChecksum;
    case ProxyProblem::kTooLong:
      return EndReason::kProxyTooLong;
  }
  return EndReason::kProxyMalformed;
}

// Why no more of it comes.
EndReason ReasonOf(const IoResult& end, size_t received) {
  if (end.status == IoStatus::kTimeout) return EndReason::kProxyTimeout;
  if (end.status == IoStatus::kClosed) return EndReason::kDrain;
  return received == 0 ? EndReason::kProxyEmpty : EndReason::kProxyCut;
}

}  // namespace

// Bytes of a header that is not complete are all its own, and are taken; of those with which it is
// complete, only as many as it has. They are looked at in the worker's scratch buffer, which ends
// with the wait for more: who waits keeps what it has, and no page of stack.
EndReason ReceiveProxyHeader(netpoll::Conn& client, AcceptProxy accept, BufferPool& buffers,
                             ProxyHeader& header) {
  std::string before;
  netpoll::Conn::Reader reader(client);
  for (;;) {
    const std::span<std::byte> bytes = buffers.Scratch().first(kProxyHeaderMax);
    std::ranges::copy(std::as_bytes(std::span(before)), bytes.begin());
    const std::span<std::byte> room = bytes.subspan(before.size());
    IoResult seen = reader.TryPeek(room);
    if (seen.status == IoStatus::kAgain) {
      seen = reader.AwaitReadable();
      if (seen.ok()) continue;
    }
    if (!seen.ok()) return ReasonOf(seen, before.size());
    const std::string_view so_far(reinterpret_cast<const char*>(bytes.data()),
                                  before.size() + seen.bytes);
    const ProxyRead read = ReadProxyHeader(so_far, accept, header);
    if (const EndReason reason = ReasonOf(read.problem); reason != EndReason::kNone) return reason;
    const bool is_complete = read.problem == ProxyProblem::kNone;
    const size_t its_own = is_complete ? read.size - before.size() : seen.bytes;
    const IoResult taken = reader.TryRead(room.first(its_own));
    if (!taken.ok()) return ReasonOf(taken, before.size());
    if (taken.bytes != its_own) return EndReason::kProxyMalformed;  // urgent data within it
    if (is_complete) return EndReason::kNone;
    before.assign(so_far);
  }
}

}  // namespace parkway
