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
  kNoBackend,         // no backend is up
  kQueueFull,         // all backends had their most sessions, and max_queue others waited
  kQueueTimeout,      // all had their most sessions for queue_timeout
  kBackendDown,       // its backend went down, and on_down is close
  kDrain,             // left when drain_timeout had passed
  kStop,              // left when the second SIGTERM came
};
inline constexpr int kEndReasons = 18;

// Such as "client_fin".
const char* ToString(EndReason reason);

}  // namespace parkway

#endif  // PARKWAY_SERVER_END_REASON_H_
