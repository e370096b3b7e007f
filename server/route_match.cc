// SPDX-License-Identifier: Apache-2.0
#include "server/route_match.h"

#include <algorithm>
#include <string_view>

namespace parkway {
namespace {

// "*.example.com" is for all names below that one, and not for itself.
bool IsNamed(std::string_view pattern, std::string_view name) {
  if (!pattern.starts_with('*')) return name == pattern;
  const std::string_view end = pattern.substr(1);
  return name.size() > end.size() && name.ends_with(end);
}

// An empty list lets all pass.
template <class Wanted, class Fits>
bool PassesAny(const std::vector<Wanted>& list, Fits fits) {
  return list.empty() || std::any_of(list.begin(), list.end(), fits);
}

}  // namespace

bool MayServe(const Route& route, const netpoll::CompactEndpoint& client) {
  if (route.from.empty()) return true;
  const netpoll::Endpoint at = client.Expand();
  return PassesAny(route.from, [&](const Cidr& block) { return block.Contains(at); });
}

bool Serves(const Route& route, const netpoll::CompactEndpoint& client, const ClientHello& hello) {
  if (route.serves_all()) return true;
  const auto offers = [&](const std::string& protocol) {
    const auto& all = hello.protocols;
    return std::find(all.begin(), all.end(), protocol) != all.end();
  };
  return MayServe(route, client) &&
         PassesAny(route.sni, [&](const auto& name) { return IsNamed(name, hello.server_name); }) &&
         PassesAny(route.alpn, offers);
}

bool ConnectsTo(const netpoll::Endpoint& backend, const Route& route) {
  for (const Listen& listen : route.listen) {
    const auto& all = listen.at;
    if (std::find(all.begin(), all.end(), backend) != all.end()) return true;
  }
  return backend.is_loopback() && ConnectsIfLocal(backend, route);
}

bool ConnectsIfLocal(const netpoll::Endpoint& backend, const Route& route) {
  const auto has_it = [&](const netpoll::Endpoint& at) { return at.CoversIfLocal(backend); };
  return std::any_of(route.listen.begin(), route.listen.end(), [&](const Listen& listen) {
    return std::any_of(listen.at.begin(), listen.at.end(), has_it);
  });
}

std::vector<Question> QuestionsOf(const Route& route) {
  std::vector<Question> questions;
  for (const Backend& backend : route.backends) {
    if (!backend.serves() || !backend.is_discovered()) continue;
    const auto known = std::find(questions.begin(), questions.end(), backend.question);
    if (known == questions.end()) questions.push_back(backend.question);
  }
  return questions;
}

}  // namespace parkway
