// SPDX-License-Identifier: Apache-2.0
//
// One check of a backend.
#ifndef PARKWAY_SERVER_PROBE_H_
#define PARKWAY_SERVER_PROBE_H_

#include <optional>
#include <string>
#include <string_view>

#include "netpoll/conn.h"
#include "netpoll/endpoint.h"
#include "server/connector.h"
#include "server/route.h"

namespace parkway {

// Checks `backend` as `options` say (health and what follows it) over `conn`, which must not be
// connected yet and which `connector` connects, within health_timeout. Empty text: it passed; else
// why not, such as "connect: Connection refused". Nothing: this machine had no descriptor or port
// for it, so that it says nothing. Close() on `conn` ends it. Blocks the fiber.
std::optional<std::string> Probe(netpoll::Conn& conn, Connector& connector,
                                 const netpoll::Endpoint& backend, const RouteOptions& options);

// What an answer is worth so far.
enum class Answer : unsigned char { kGood, kBad, kMore };
// The status line of an HTTP answer: 200 to 399 is good.
Answer JudgeHttp(std::string_view answer);

}  // namespace parkway

#endif  // PARKWAY_SERVER_PROBE_H_
