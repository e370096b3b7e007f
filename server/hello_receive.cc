// SPDX-License-Identifier: Apache-2.0
#include "server/hello_receive.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "netpoll/io_result.h"

namespace parkway {
namespace {

using netpoll::IoResult;
using netpoll::IoStatus;

// Most hellos have less, and come in one piece.
constexpr size_t kFirstPeek = 2 << 10;
// Bytes looked at, again and again while few come at a time: so a byte costs the daemon no more
// than some thousand that are copied.
constexpr size_t kPeekedMax = 4 << 20;

// Why no more of it comes.
EndReason EndOfHello(const IoResult& end, size_t seen) {
  if (end.status == IoStatus::kTimeout) return EndReason::kHelloTimeout;
  if (end.status == IoStatus::kClosed) return EndReason::kDrain;
  return seen == 0 ? EndReason::kHelloEmpty : EndReason::kHelloCut;
}

// What one look sees.
struct Sight {
  IoResult seen;
  bool is_all = false;  // that is there
  HelloProblem problem = HelloProblem::kIncomplete;
  size_t needed = 0;  // bytes, at least, for the next one to be of use
};

// The buffer lives no longer than the look: whoever waits for a long hello holds none.
Sight LookAt(netpoll::Conn::Reader& reader, size_t room, ClientHello& hello) {
  std::string bytes(room, '\0');
  Sight sight = {.seen = reader.TryPeek(std::as_writable_bytes(std::span(bytes)))};
  if (!sight.seen.ok()) return sight;
  bytes.resize(sight.seen.bytes);
  sight.is_all = bytes.size() < room;
  sight.problem = ReadClientHello(bytes, hello);
  sight.needed = std::min(ClientHelloNeeds(bytes), kClientHelloMax);
  return sight;
}

EndReason ReasonOf(HelloProblem problem) {
  if (problem == HelloProblem::kMalformed) return EndReason::kHelloMalformed;
  return problem == HelloProblem::kTooLong ? EndReason::kHelloTooLong : EndReason::kNone;
}

// `wakes_at`: the reader's.
EndReason ReceiveBy(netpoll::Conn::Reader& reader, size_t& wakes_at, ClientHello& hello) {
  size_t room = kFirstPeek;
  size_t peeked = 0;
  bool was_last = false;
  for (;;) {
    const Sight sight = LookAt(reader, room, hello);
    IoResult waited;
    if (sight.seen.status == IoStatus::kAgain) {
      waited = reader.AwaitReadable();
    } else if (!sight.seen.ok()) {
      waited = sight.seen;
    } else if (sight.problem != HelloProblem::kIncomplete) {
      return ReasonOf(sight.problem);
    } else if ((peeked += sight.seen.bytes) > kPeekedMax) {
      return EndReason::kHelloTooLong;
    } else if (!sight.is_all) {
      room = std::max(2 * room, sight.needed + 1);
      continue;
    } else {
      room = std::max(room, sight.needed + 1);
      if (was_last) return EndReason::kHelloCut;
      // Asking anew for as many would wake us, too, where the kernel's buffer has no room for them.
      if (sight.needed != std::exchange(wakes_at, sight.needed)) reader.WakeAt(sight.needed);
      waited = reader.AwaitMore();
      // The end may have come with bytes that this look did not see yet; the next one sees all.
      was_last = waited.status == IoStatus::kEof;
      if (was_last) continue;
    }
    if (!waited.ok()) return EndOfHello(waited, sight.seen.bytes);
  }
}

}  // namespace

EndReason ReceiveClientHello(netpoll::Conn& client, ClientHello& hello) {
  netpoll::Conn::Reader reader(client);
  size_t wakes_at = 1;
  const EndReason reason = ReceiveBy(reader, wakes_at, hello);
  if (reason == EndReason::kNone && wakes_at != 1) reader.WakeAt(1);
  return reason;
}

}  // namespace parkway
