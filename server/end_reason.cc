// SPDX-License-Identifier: Apache-2.0
#include "server/end_reason.h"

namespace parkway {

const char* ToString(EndReason reason) {
  switch (reason) {
    case EndReason::kNone:
      return "none";
    case EndReason::kClientFin:
      return "client_fin";
    case EndReason::kUpstreamFin:
      return "upstream_fin";
    case EndReason::kClientReset:
      return "client_reset";
    case EndReason::kUpstreamReset:
      return "upstream_reset";
    case EndReason::kIdleTimeout:
      return "idle_timeout";
    case EndReason::kHalfCloseTimeout:
      return "half_close_timeout";
    case EndReason::kConnectRefused:
      return "connect_refused";
    case EndReason::kConnectTimeout:
      return "connect_timeout";
    case EndReason::kConnectFailed:
      return "connect_failed";
    case EndReason::kNoSourcePort:
      return "no_source_port";
    case EndReason::kNoRoute:
      return "no_route";
    case EndReason::kDenied:
      return "denied";
    case EndReason::kDstDenied:
      return "dst_denied";
    case EndReason::kDstLoop:
      return "dst_loop";
    case EndReason::kTooMany:
      return "too_many";
    case EndReason::kTooFast:
      return "too_fast";
    case EndReason::kMemoryBudget:
      return "memory_budget";
    case EndReason::kSourceTooMany:
      return "source_too_many";
    case EndReason::kSourceTooFast:
      return "source_too_fast";
    case EndReason::kNoBackend:
      return "no_backend";
    case EndReason::kQueueFull:
      return "queue_full";
    case EndReason::kQueueTimeout:
      return "queue_timeout";
    case EndReason::kBackendDown:
      return "backend_down";
    case EndReason::kUntrusted:
      return "untrusted";
    case EndReason::kProxyEmpty:
      return "proxy_empty";
    case EndReason::kProxyCut:
      return "proxy_cut";
    case EndReason::kProxyTimeout:
      return "proxy_timeout";
    case EndReason::kProxyMissing:
      return "proxy_missing";
    case EndReason::kProxyMalformed:
      return "proxy_malformed";
    case EndReason::kProxyCommand:
      return "proxy_command";
    case EndReason::kProxyFamily:
      return "proxy_family";
    case EndReason::kProxyChecksum:
      return "proxy_checksum";
    case EndReason::kProxyTooLong:
      return "proxy_too_long";
    case EndReason::kHelloEmpty:
      return "hello_empty";
    case EndReason::kHelloCut:
      return "hello_cut";
    case EndReason::kHelloTimeout:
      return "hello_timeout";
    case EndReason::kHelloMalformed:
      return "hello_malformed";
    case EndReason::kHelloTooLong:
      return "hello_too_long";
    case EndReason::kDrain:
      return "drain";
    case EndReason::kStop:
      return "stop";
  }
  return "?";
}

}  // namespace parkway
