// SPDX-License-Identifier: Apache-2.0
//
// Which clients a route is for, and whom it relays to.
#ifndef PARKWAY_SERVER_ROUTE_MATCH_H_
#define PARKWAY_SERVER_ROUTE_MATCH_H_

#include <vector>

#include "netpoll/endpoint.h"
#include "server/client_hello.h"
#include "server/question.h"
#include "server/route.h"

namespace parkway {

// Whether `route` serves a client of that address (a proxy's client: as the proxy says), who sent
// that ClientHello; an empty one is of a client that speaks no TLS, or was not asked.
bool Serves(const Route& route, const netpoll::CompactEndpoint& client, const ClientHello& hello);

// Whether it may, for all that is known before the ClientHello.
bool MayServe(const Route& route, const netpoll::CompactEndpoint& client);

// Whether what connects to `backend` comes to `route`, as far as it says where it listens.
bool ConnectsTo(const netpoll::Endpoint& backend, const Route& route);
// Whether it does if `backend` is an address of this machine.
bool ConnectsIfLocal(const netpoll::Endpoint& backend, const Route& route);

// The names of its backends that get sessions, each once.
std::vector<Question> QuestionsOf(const Route& route);

}  // namespace parkway

#endif  // PARKWAY_SERVER_ROUTE_MATCH_H_
