// SPDX-License-Identifier: Apache-2.0
//
// Routes: the bytes are a file of them. Each error is a line that names its place; what is accepted
// keeps the rules of docs/routes.md and prints as a line from which the same route is read.
#include <algorithm>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"
#include "server/route_config.h"
#include "server/route_text.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using sched::testing::HoldsControl;
using sched::testing::Require;

// Numbers, and one name.
absl::StatusOr<std::vector<Endpoint>> Resolve(std::string_view text) {
  if (text == "pair:80") {
    return std::vector<Endpoint>{*Endpoint::Parse("10.0.0.1:80"), *Endpoint::Parse("10.0.0.2:80")};
  }
  absl::StatusOr<Endpoint> numeric = Endpoint::Parse(text);
  if (text.starts_with("name.test:")) return absl::NotFoundError("for a name server to say");
  if (!numeric.ok()) return numeric.status();
  return std::vector<Endpoint>{*numeric};
}

void CheckError(const absl::Status& status, std::string_view text) {
  const std::string message(status.message());
  Require(status.code() == absl::StatusCode::kInvalidArgument, "an error is the text's", message);
  Require(message.starts_with("routes:"), "an error begins with the file", message);
  const size_t colon = message.find(':', sizeof "routes");
  const std::string line = message.substr(sizeof "routes:" - 1, colon - (sizeof "routes:" - 1));
  Require(!line.empty() && line.find_first_not_of("0123456789") == line.npos, "and the line",
          message);
  const auto lines = 1 + std::count(text.begin(), text.end(), '\n');
  Require(std::stoll(line) >= 1 && std::stoll(line) <= lines, "which there is", message);
  Require(message.size() > colon + 2, "and says what is wrong", message);
  Require(!HoldsControl(message), "on one line", message);
}

// Printed in a file of its own.
void CheckPrinting(const Route& route) {
  const std::string text = FormatRoute(route, RouteOptions());
  const absl::StatusOr<std::vector<RouteSource>> sources = SplitRoutes(text, "routes");
  Require(sources.ok() && sources->size() == 1, "a printed route is one line", text);
  const absl::StatusOr<ParsedRoute> again =
      ParseRoute(sources->front(), RouteOptions(), {&Resolve, &Resolve});
  Require(again.ok() && again->route == route, "a printed route is read back", text);
}

void CheckRoute(const Route& route) {
  Require(!route.name.empty() && route.name.size() <= kRouteNameMax, "a route has a name", "");
  Require(!route.listen.empty(), "and listens somewhere", route.name);
  Require(route.is_local() + !route.backends.empty() + route.to_original_dst() == 1,
          "and has backends, or echoes, or goes where clients were going", route.name);
  Require(route.backends.size() <= kBackendsMax, "not too many", route.name);
  for (const Backend& backend : route.backends) {
    Require(backend.weight >= 0 && backend.weight <= kWeightMax, "of a weight", backend.text);
    Require(backend.max >= 0 && backend.max <= kBackendSessionsMax, "and a most", backend.text);
    Require(!backend.backup || !backend.drain, "and one mark", backend.text);
  }
  CheckPrinting(route);
}

void CheckText(std::string_view text) {
  const absl::StatusOr<std::vector<RouteSource>> sources = SplitRoutes(text, "routes");
  if (!sources.ok()) return CheckError(sources.status(), text);
  std::vector<ParsedRoute> routes;
  for (const RouteSource& source : *sources) {
    absl::StatusOr<ParsedRoute> parsed = ParseRoute(source, RouteOptions(), {&Resolve, &Resolve});
    if (!parsed.ok()) return CheckError(parsed.status(), text);
    CheckRoute(parsed->route);
    routes.push_back(*std::move(parsed));
  }
  const absl::Status together = CheckRoutes(routes);
  if (!together.ok()) CheckError(together, text);
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parkway::CheckText(sched::testing::TextOf(data, size));
  return 0;
}
