// SPDX-License-Identifier: Apache-2.0
//
// What the words of a route mean.
//
//   key       value
//   listen    ADDRESS[,ADDRESS...]: where it accepts, as for --listen
//   from      BLOCK[,BLOCK...]: the clients it serves there, 10.0.0.0/8 or ::1; by default all
//   sni       NAME[,NAME...]: those whose TLS ClientHello names one of these servers; *.NAME stands
//             for all names below it
//   alpn      PROTOCOL[,PROTOCOL...]: those whose ClientHello offers one of these
//   to        BACKEND[,BACKEND...], a backend being ADDRESS[*WEIGHT][@backup|@drain][/max=COUNT],
//             where ADDRESS may be srv:NAME, too; or echo, or discard, or original_dst: where the
//             client was going before a packet filter led it here
//   allow_dst BLOCK[,BLOCK...]: with original_dst, where clients may go (Destinations)
//   ...       the flag of the same name, for this route (RouteSettings)
#ifndef PARKWAY_SERVER_ROUTE_CONFIG_H_
#define PARKWAY_SERVER_ROUTE_CONFIG_H_

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "server/fields.h"
#include "server/route.h"
#include "server/route_text.h"

namespace parkway {

// How names become addresses; tests give their own.
using ResolveFunction = absl::StatusOr<std::vector<netpoll::Endpoint>>(std::string_view host_port);
struct NameSources {
  // Of where to listen. May ask name servers.
  ResolveFunction* resolve = &netpoll::Endpoint::Resolve;
  // Of backends, as far as no name server is needed: kNotFound leaves a name to be asked for while
  // the daemon runs.
  ResolveFunction* hosts = &netpoll::Endpoint::ResolveFromHosts;
};

// The options of a route, in the order of --help.
std::span<const Setting<RouteOptions>> RouteSettings();

// The options in which listening sockets of `a` and `b` differ.
std::vector<std::string_view> DifferentAtListener(const RouteOptions& a, const RouteOptions& b);

// What is wrong with the first of `sources` that is of another family than all backends of
// `routes`; empty: nothing, also where there are no backends.
std::string UnfitSource(const std::vector<netpoll::Endpoint>& sources,
                        const std::vector<const Route*>& routes);

// Bounds.
inline constexpr size_t kSourcesMax = 256;               // of a route
inline constexpr size_t kNamesMax = 1000;                // of sni or alpn of a route
inline constexpr int kBackendSessionsMax = 100'000'000;  // max= of a backend
inline constexpr size_t kListensMax = 1000;              // of all routes
inline constexpr size_t kBackendsMax = 1000;             // of a route

// A route, and where its parts stand.
struct ParsedRoute {
  Route route;
  std::vector<size_t> listen_at;
  std::vector<size_t> backend_at;
  // About what stands at such a place.
  std::function<absl::Status(size_t, std::string_view)> error;
};

// Reads a route, and resolves the names where it listens. BLOCKS THE THREAD on name servers then.
// `source` must outlive the result.
absl::StatusOr<ParsedRoute> ParseRoute(const RouteSource& source, const RouteOptions& defaults,
                                       const NameSources& names);

// One address of `listen` or `to`. Errors (kInvalidArgument) say what is wrong without repeating
// the text.
absl::StatusOr<Listen> ParseListen(std::string_view text, ResolveFunction* resolve);
absl::StatusOr<Backend> ParseBackend(std::string_view text, ResolveFunction* hosts);

// Where to accept, each address once; a port 0 is another one each time.
std::vector<netpoll::Endpoint> ListenAddresses(const std::vector<Route>& routes);

// What the daemon is in one word: a proxy if any of them relays.
Mode ModeOf(const std::vector<Route>& routes);

// A backend as ParseBackend reads it.
std::string FormatBackend(const Backend& backend);
// What stands in a --route or a line of a --routes_file, from which ParseRoute makes the same
// Route.
std::string FormatRoute(const Route& route, const RouteOptions& defaults);

// What does not go together: a name given twice, routes that relay in a circle, listeners that
// overlap or of which routes want different things, a route that no client ever reaches.
absl::Status CheckRoutes(const std::vector<ParsedRoute>& routes);

}  // namespace parkway

#endif  // PARKWAY_SERVER_ROUTE_CONFIG_H_
