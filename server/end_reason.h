// SPDX-License-Identifier: Apache-2.0
//
// Why a session ended, in the words that operators read. docs/endings.md says what each does to
// both peers.
#ifndef PARKWAY_SERVER_END_REASON_H_
#define PARKWAY_SERVER_END_REASON_H_

#include <cstdint>

namespace parkway {

enum class EndReason : uint8_t {
  kNone,              // it has not ended
  kClientFin,         // FIN in both directions, the client's first
  kUpstreamFin,       // FIN in both directions, the backend's first
  kClientReset,       // the client broke the connection
  kUpstreamReset,     // the backend did
  kIdleTimeout,       // silence for idle_timeout
  kHalfCloseTimeout,  // silence for half_close_timeout after one direction had finished
  kConnectRefused,    // the backend tried last refuses connections
  kConnectTimeout,    // it did not answer within connect_timeout
  kConnectFailed,     // it could not be connected to for another reason
  kNoSourcePort,      // this machine had no free port for the backend tried last
  kNoRoute,           // no route of its listener serves the client
  kDenied,            // its route's allow or deny is against it
  kDstDenied,         // its route's allow_dst has not where the client was going
  kDstLoop,           // the client was going to the daemon itself, is one of its connections that
                      // came back, or nobody knows where it was going
  kTooMany,           // max_conns or listener_max_conns was reached, and it could not wait:
                      // overload is reset, or a reload took its address away
  kTooFast,           // likewise max_conn_rate or listener_conn_rate
  kMemoryBudget,      // likewise memory_budget
  kSourceTooMany,     // its source had source_max_conns clients
  kSourceTooFast,     // source_conn_rate of its source was reached
  kNoBackend,         // no backend is up
  kQueueFull,         // all backends had their most sessions, and max_queue others waited
  kQueueTimeout,      // all had their most sessions for queue_timeout
  kBackendDown,       // its backend went down, and on_down is close
  kUntrusted,         // accept_proxy, and the peer is none of trusted
  kProxyEmpty,        // the client ended before it sent a byte of its PROXY header
  kProxyCut,          // it ended within it
  kProxyTimeout,      // it did not send it within handshake_timeout
  kProxyMissing,      // it sent something else, or a version that is not accepted
  kProxyMalformed,    // a field of the header says what it may not
  kProxyCommand,      // v2: an unknown version or command
  kProxyFamily,       // v2: an unknown address family or transport
  kProxyChecksum,     // v2: its CRC32C does not fit
  kProxyTooLong,      // the header has no end within 107 bytes (v1), or more than 4096 (v2)
  kHelloEmpty,        // the client ended before it sent a byte of its ClientHello
  kHelloCut,          // it ended within it
  kHelloTimeout,      // it did not send it within handshake_timeout
  kHelloMalformed,    // a field of it says what it may not
  kHelloTooLong,      // it has no end within 64 KiB, or comes in too many pieces
  kDrain,             // left when drain_timeout had passed
  kStop,              // left when the second SIGTERM came
};
inline constexpr int kEndReasons = 41;

// Such as "client_fin".
const char* ToString(EndReason reason);

}  // namespace parkway

#endif  // PARKWAY_SERVER_END_REASON_H_
