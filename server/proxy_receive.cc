// SPDX-License-Identifier: Apache-2.0
#include "server/proxy_receive.h"

#include <cstddef>
#include <span>
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

// What is there, at least a byte, which stays where it is.
IoResult Peek(netpoll::Conn::Reader& reader, std::span<std::byte> buffer) {
  IoResult seen = reader.TryPeek(buffer);
  while (seen.status == IoStatus::kAgain) {
    if (const IoResult waited = reader.AwaitReadable(); !waited.ok()) return waited;
    seen = reader.TryPeek(buffer);
  }
  return seen;
}

}  // namespace

// Bytes of a header that is not complete are all its own, and are taken; of those with which it is
// complete, only as many as it has.
EndReason ReceiveProxyHeader(netpoll::Conn& client, AcceptProxy accept, ProxyHeader& header) {
  std::byte bytes[kProxyHeaderMax];  // a page of the stack; most headers touch 100 bytes of it
  size_t received = 0;
  netpoll::Conn::Reader reader(client);
  for (;;) {
    const std::span<std::byte> room = std::span(bytes).subspan(received);
    const IoResult seen = Peek(reader, room);
    if (!seen.ok()) return ReasonOf(seen, received);
    const std::string_view so_far(reinterpret_cast<const char*>(bytes), received + seen.bytes);
    const ProxyRead read = ReadProxyHeader(so_far, accept, header);
    if (const EndReason reason = ReasonOf(read.problem); reason != EndReason::kNone) return reason;
    const bool is_complete = read.problem == ProxyProblem::kNone;
    const size_t its_own = is_complete ? read.size - received : seen.bytes;
    const IoResult taken = reader.TryRead(room.first(its_own));
    if (!taken.ok()) return ReasonOf(taken, received);
    if (taken.bytes != its_own) return EndReason::kProxyMalformed;  // urgent data within it
    if (is_complete) return EndReason::kNone;
    received += its_own;
  }
}

}  // namespace parkway
