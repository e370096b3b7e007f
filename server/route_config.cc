// SPDX-License-Identifier: Apache-2.0
#include "server/route_config.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "server/destinations.h"
#include "server/route_match.h"
#include "server/suggest.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

using Options = RouteOptions;

constexpr std::string_view kBalances[] = {"rr",     "leastconn", "random2",
                                          "source", "maglev",    "first"};
constexpr std::string_view kAllDowns[] = {"refuse", "try"};
constexpr std::string_view kHealths[] = {"off", "passive", "tcp", "http"};
constexpr std::string_view kOnDowns[] = {"keep", "close"};
constexpr std::string_view kOverloads[] = {"pause", "reset"};
constexpr std::string_view kAcceptProxies[] = {"off", "v1", "v2", "any"};
constexpr std::string_view kSendProxies[] = {"off", "v1", "v2"};
constexpr std::string_view kProxyTlvs[] = {"crc32c", "unique_id", "received"};  // as ProxyTlv
constexpr std::string_view kLogSessions[] = {"off", "end", "all"};

constexpr bool kAtListener = true;

// What has room in a line of an HTTP request, or may be the name of an algorithm.
absl::Status CheckWord(std::string_view text) {
  const auto is_fit = [](char c) { return c > ' ' && c <= '~'; };
  if (std::all_of(text.begin(), text.end(), is_fit)) return absl::OkStatus();
  return absl::InvalidArgumentError("holds a blank or a control character");
}

absl::Status CheckPath(std::string_view path) {
  if (!path.starts_with('/')) return absl::InvalidArgumentError("a path begins with /");
  return CheckWord(path);
}

const Setting<Options> kSettings[] = {
    {"balance", "WAY", Choice<&Options::balance, Options>(kBalances)},
    {"hash_balance_factor", "PERCENT",
     CountField<Options, int>{&Options::hash_balance_factor, 101, 10'000, /*or_zero=*/true}},
    {"connect_timeout", "DURATION", DurationField<Options>{&Options::connect_timeout, 1ms, 1h}},
    {"connect_retries", "COUNT",
     CountField<Options, int>{&Options::connect_retries, 0, kConnectRetriesMax}},
    {"max_queue", "COUNT", CountField<Options, int>{&Options::max_queue, 0, 1'000'000}},
    {"queue_timeout", "DURATION", DurationField<Options>{&Options::queue_timeout, 1ms, 1h}},
    {"idle_timeout", "DURATION",
     DurationField<Options>{&Options::idle_timeout, 1ms, 8760h, /*or_zero=*/true}},
    {"half_close_timeout", "DURATION",
     DurationField<Options>{&Options::half_close_timeout, 1ms, 8760h, /*or_zero=*/true}},
    {"reset_linger", "DURATION", DurationField<Options>{&Options::reset_linger, 0s, 1min}},
    {"health", "WAY", Choice<&Options::health, Options>(kHealths)},
    {"health_interval", "DURATION", DurationField<Options>{&Options::health_interval, 10ms, 1h}},
    {"health_timeout", "DURATION", DurationField<Options>{&Options::health_timeout, 1ms, 1h}},
    {"health_rise", "COUNT", CountField<Options, int>{&Options::health_rise, 1, 100}},
    {"health_fall", "COUNT", CountField<Options, int>{&Options::health_fall, 1, 100}},
    {"health_port", "PORT", CountField<Options, int>{&Options::health_port, 0, 65535}},
    {"health_path", "PATH", TextField<Options>{&Options::health_path, 1024, CheckPath}},
    {"health_host", "HOST", TextField<Options>{&Options::health_host, 255, CheckWord}},
    {"health_send", "BYTES", TextField<Options>{&Options::health_send, 4096}},
    {"health_expect", "BYTES", TextField<Options>{&Options::health_expect, 4096}},
    {"all_down", "WAY", Choice<&Options::all_down, Options>(kAllDowns)},
    {"on_down", "WAY", Choice<&Options::on_down, Options>(kOnDowns)},
    {"slow_start", "DURATION",
     DurationField<Options>{&Options::slow_start, 100ms, 1h, /*or_zero=*/true}},
    {"accept_proxy", "VERSION", Choice<&Options::accept_proxy, Options>(kAcceptProxies),
     kAtListener},
    {"trusted", "BLOCKS", BlocksField<Options>{&Options::trusted}, kAtListener},
    {"handshake_timeout", "DURATION", DurationField<Options>{&Options::handshake_timeout, 1ms, 1h},
     kAtListener},
    {"allow", "BLOCKS", BlocksField<Options>{&Options::allow}},
    {"deny", "BLOCKS", BlocksField<Options>{&Options::deny}},
    {"listener_max_conns", "COUNT",
     CountField<Options, int64_t>{&Options::listener_max_conns, 0, 100'000'000}, kAtListener},
    {"listener_conn_rate", "COUNT",
     CountField<Options, int>{&Options::listener_conn_rate, 0, 1'000'000}, kAtListener},
    {"overload", "WAY", Choice<&Options::overload, Options>(kOverloads), kAtListener},
    {"source_max_conns", "COUNT",
     CountField<Options, int>{&Options::source_max_conns, 0, 1'000'000}},
    {"source_conn_rate", "COUNT",
     CountField<Options, int>{&Options::source_conn_rate, 0, 1'000'000}},
    {"bandwidth", "SIZE",
     SizeField<Options>{&Options::bandwidth, 1 << 10, size_t{1} << 40, /*or_zero=*/true}},
    {"route_bandwidth", "SIZE",
     SizeField<Options>{&Options::route_bandwidth, 1 << 10, size_t{1} << 40, /*or_zero=*/true}},
    {"send_proxy", "VERSION", Choice<&Options::send_proxy, Options>(kSendProxies)},
    {"send_proxy_tlvs", "WORDS", WordsField<Options>{&Options::send_proxy_tlvs, kProxyTlvs}},
    {"source", "ADDRESSES|client",
     SourceField<Options>{&Options::source, &Options::source_is_client, kSourcesMax}},
    // TCP_KEEPIDLE counts in seconds and ends at 32767.
    {"keepalive_idle", "DURATION",
     DurationField<Options>{&Options::keepalive_idle, 1s, 32767s, /*or_zero=*/true, /*step=*/1s},
     kAtListener},
    {"backend_keepalive_idle", "DURATION",
     DurationField<Options>{&Options::backend_keepalive_idle, 1s, 32767s, /*or_zero=*/true,
                            /*step=*/1s}},
    {"user_timeout", "DURATION",
     DurationField<Options>{&Options::user_timeout, 1ms, 24h, /*or_zero=*/true, /*step=*/1ms},
     kAtListener},
    {"congestion", "NAME", TextField<Options>{&Options::congestion, 15, CheckWord}, kAtListener},
    {"mark", "NUMBER", CountField<Options, int64_t>{&Options::mark, 0, 4'294'967'295}, kAtListener},
    {"rcvbuf", "SIZE", SizeField<Options>{&Options::rcvbuf, 4 << 10, 256 << 20, /*or_zero=*/true},
     kAtListener},
    {"sndbuf", "SIZE", SizeField<Options>{&Options::sndbuf, 4 << 10, 256 << 20, /*or_zero=*/true},
     kAtListener},
    {"backlog", "COUNT", CountField<Options, int>{&Options::backlog, 1, 1'000'000}, kAtListener},
    {"fastopen", "COUNT", CountField<Options, int>{&Options::fastopen, 0, 1'000'000}, kAtListener},
    {"defer_accept", "DURATION",
     DurationField<Options>{&Options::defer_accept, 1s, 1h, /*or_zero=*/true, /*step=*/1s},
     kAtListener},
    {"mptcp", "", BoolField<Options>{&Options::mptcp}, kAtListener},
    {"transparent", "", BoolField<Options>{&Options::transparent}, kAtListener},
    {"log_sessions", "WHICH", Choice<&Options::log_sessions, Options>(kLogSessions)},
    {"log_sample", "COUNT", CountField<Options, int>{&Options::log_sample, 1, 1'000'000}},
};

constexpr std::string_view kOriginalDst = "original_dst";

// What says how a backend is chosen, and how it fares.
constexpr std::string_view kOfChosenBackends[] = {
    "balance",         "hash_balance_factor",
    "connect_retries", "max_queue",
    "queue_timeout",   "health",
    "health_interval", "health_timeout",
    "health_rise",     "health_fall",
    "health_port",     "health_path",
    "health_host",     "health_send",
    "health_expect",   "all_down",
    "on_down",         "slow_start",
};

constexpr std::string_view kBackup = "@backup";
constexpr std::string_view kDrain = "@drain";
constexpr std::string_view kMax = "/max=";
constexpr std::string_view kService = "srv:";
constexpr const char* kNoPort = "a backend's port must be 1-65535";

bool TakeSuffix(std::string_view& text, std::string_view suffix) {
  // An abstract socket may be called so.
  if (!text.ends_with(suffix) || text == "unix:" + std::string(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

bool IsUnix(std::string_view text) { return text.starts_with("unix:"); }

// Cuts "/max=100" off, if it is there. A Unix path may end so: then it has to be said again.
absl::Status TakeMax(std::string_view& text, int& max) {
  const size_t at = text.rfind(kMax);
  if (at == text.npos) return absl::OkStatus();
  const absl::StatusOr<int64_t> found =
      ParseCount(text.substr(at + kMax.size()), 0, kBackendSessionsMax);
  if (!found.ok()) {
    return absl::InvalidArgumentError("max " + std::string(found.status().message()));
  }
  max = static_cast<int>(*found);
  text = text.substr(0, at);
  return absl::OkStatus();
}

// Cuts "*3" off, if it is there.
absl::Status TakeWeight(std::string_view& text, int& weight) {
  const size_t star = text.rfind('*');
  if (star == text.npos || star == 0) return absl::OkStatus();
  const std::string_view number = text.substr(star + 1);
  const bool has_digits = !number.empty() && number.find_first_not_of("0123456789") == number.npos;
  if (IsUnix(text) && !has_digits) return absl::OkStatus();  // it belongs to the path
  const absl::StatusOr<int64_t> found = ParseCount(number, 0, kWeightMax);
  if (!found.ok()) {
    return absl::InvalidArgumentError("the weight " + std::string(found.status().message()));
  }
  weight = static_cast<int>(*found);
  text = text.substr(0, star);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Endpoint>> Resolve(std::string_view text, ResolveFunction* resolve) {
  const auto is_control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  if (std::any_of(text.begin(), text.end(), is_control)) {
    return absl::InvalidArgumentError("address holds a control character");
  }
  absl::StatusOr<std::vector<Endpoint>> found = resolve(text);
  if (!found.ok()) {
    // The message starts with the text, which the caller names too.
    std::string problem(found.status().message());
    const std::string start = (text.empty() ? "\"\"" : std::string(text)) + ": ";
    if (problem.compare(0, start.size(), start) == 0) problem.erase(0, start.size());
    return absl::Status(found.status().code(), problem);
  }
  // No flagfile could say so: the blanks at the end of a line are not part of the value.
  if (text.ends_with(' ')) return absl::InvalidArgumentError("address ends in a space");
  // localhost is ::1 and 127.0.0.1, and most servers listen on the latter alone: taking turns
  // between the two would refuse every second connection.
  const auto is_ipv4 = [](const Endpoint& endpoint) { return endpoint.family() == AF_INET; };
  if (std::any_of(found->begin(), found->end(), is_ipv4)) {
    std::erase_if(*found, [&](const Endpoint& endpoint) { return !is_ipv4(endpoint); });
  }
  // Name servers turn the order round, which would make an unchanged route look changed.
  std::sort(found->begin(), found->end(),
            [](const Endpoint& a, const Endpoint& b) { return a.ToString() < b.ToString(); });
  return found;
}

// What name servers are asked for: labels of 1 to 63 characters, 253 in all, with a dot at the end
// or not (RFC 1035).
absl::Status CheckDnsName(std::string_view text) {
  std::string_view rest = text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
  bool good = !rest.empty() && rest.size() <= 253;
  while (good && !rest.empty()) {
    const std::string_view label = rest.substr(0, rest.find('.'));
    const auto is_fit = [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '-' || c == '_';
    };
    good = !label.empty() && label.size() <= 63 && std::all_of(label.begin(), label.end(), is_fit);
    rest.remove_prefix(std::min(rest.size(), label.size() + 1));
    good = good && (rest.empty() ? !text.ends_with("..") : true);
  }
  return good ? absl::OkStatus() : absl::InvalidArgumentError("not a host name");
}

// Not a host called srv.
bool IsService(std::string_view text) {
  return text.starts_with(kService) &&
         text.find_first_not_of("0123456789", kService.size()) != text.npos;
}

// NAME:PORT, of which the hosts file knows nothing.
absl::StatusOr<Backend> ParseHost(std::string_view text, Backend backend) {
  const size_t colon = text.rfind(':');
  const std::string_view name = text.substr(0, colon);
  if (const absl::Status named = CheckDnsName(name); !named.ok()) return named;
  const absl::StatusOr<int64_t> port = ParseCount(text.substr(colon + 1), 1, 65535);
  if (!port.ok()) return absl::InvalidArgumentError(kNoPort);
  backend.question = {.srv = false, .name = std::string(name)};
  backend.port = static_cast<uint16_t>(*port);
  return backend;
}

// ---- What a client asks for.

// A host's name, as ClientHello has it, or *. and a name.
absl::StatusOr<std::string> ParseServerName(std::string_view text) {
  constexpr size_t kNameMax = 253;  // RFC 1035
  const std::string_view name = text.starts_with("*.") ? text.substr(2) : text;
  const auto is_fit = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  };
  const bool has_dots =
      name.starts_with('.') || name.ends_with('.') || name.find("..") != name.npos;
  if (name.empty() || text.size() > kNameMax || has_dots ||
      !std::all_of(name.begin(), name.end(), is_fit)) {
    return absl::InvalidArgumentError("must be the name of a host, or *.NAME for all below it");
  }
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

// A protocol's name in ALPN.
absl::StatusOr<std::string> ParseProtocol(std::string_view text) {
  constexpr size_t kProtocolMax = 255;  // RFC 7301
  if (text.empty() || text.size() > kProtocolMax) {
    return absl::InvalidArgumentError("must have 1 to 255 characters");
  }
  if (const absl::Status checked = CheckWord(text); !checked.ok()) return checked;
  return std::string(text);
}

// ---- The keys of a route.

// Calls each(part, index of the part in the text) for the parts between commas.
template <class Each>
absl::Status ForEachPart(const RouteWord& word, Each each) {
  std::string_view rest = word.value;
  size_t at = word.value_at();
  for (;;) {
    const std::string_view part = rest.substr(0, rest.find(','));
    if (const absl::Status status = each(part, at); !status.ok()) return status;
    if (part.size() == rest.size()) return absl::OkStatus();
    rest.remove_prefix(part.size() + 1);
    at += part.size() + 1;
  }
}

class Reader {
 public:
  Reader(const RouteSource& source, const NameSources& names, ParsedRoute& parsed)
      : source_(source), names_(names), parsed_(parsed), route_(parsed.route) {}

  absl::Status Read(const RouteWord& word) {
    if (word.key == "listen") return ReadListen(word);
    if (word.key == "from") return ReadFrom(word);
    if (word.key == "sni") return ReadWords(word, ParseServerName, route_.sni);
    if (word.key == "alpn") return ReadWords(word, ParseProtocol, route_.alpn);
    if (word.key == "to") return ReadTo(word);
    if (word.key == "allow_dst") return ReadAllowDst(word);
    for (const Setting<RouteOptions>& setting : kSettings) {
      if (setting.name != word.key) continue;
      const absl::Status set = SetField(setting.field, word.value, route_.options);
      return set.ok() ? set : About(word, set);
    }
    return UnknownKey(word);
  }

 private:
  absl::Status ReadListen(const RouteWord& word) {
    return ForEachPart(word, [&](std::string_view part, size_t at) {
      absl::StatusOr<Listen> listen = ParseListen(part, names_.resolve);
      if (!listen.ok()) return About(part, at, listen.status());
      route_.listen.push_back(*std::move(listen));
      parsed_.listen_at.push_back(at);
      return absl::OkStatus();
    });
  }

  absl::Status ReadFrom(const RouteWord& word) {
    return ForEachPart(word, [&](std::string_view part, size_t at) {
      const absl::StatusOr<Cidr> block = Cidr::Parse(part);
      if (!block.ok()) return About(part, at, block.status());
      route_.from.push_back(*block);
      return absl::OkStatus();
    });
  }

  absl::Status ReadWords(const RouteWord& word,
                         absl::StatusOr<std::string> (*parse)(std::string_view),
                         std::vector<std::string>& words) {
    return ForEachPart(word, [&](std::string_view part, size_t at) -> absl::Status {
      const absl::StatusOr<std::string> parsed = parse(part);
      if (!parsed.ok()) return About(part, at, parsed.status());
      if (words.size() == kNamesMax) {
        return source_.Error(at, "more than " + std::to_string(kNamesMax) + " names");
      }
      words.push_back(*parsed);
      return absl::OkStatus();
    });
  }

  absl::Status ReadAllowDst(const RouteWord& word) {
    absl::StatusOr<Destinations> destinations = Destinations::Parse(word.value);
    if (!destinations.ok()) return About(word, destinations.status());
    route_.allow_dst = *std::move(destinations);
    return absl::OkStatus();
  }

  absl::Status ReadTo(const RouteWord& word) {
    if (word.value == kOriginalDst) return absl::OkStatus();  // CheckOriginalDst
    for (const Mode mode : {Mode::kEcho, Mode::kDiscard}) {
      if (word.value != ToString(mode)) continue;
      route_.mode = mode;
      return absl::OkStatus();
    }
    return ForEachPart(word, [&](std::string_view part, size_t at) {
      absl::StatusOr<Backend> backend = ParseBackend(part, names_.hosts);
      if (!backend.ok()) return About(part, at, backend.status());
      if (route_.backends.size() == kBackendsMax) {
        return source_.Error(at, "more than " + std::to_string(kBackendsMax) + " backends");
      }
      route_.backends.push_back(*std::move(backend));
      parsed_.backend_at.push_back(at);
      return absl::OkStatus();
    });
  }

  absl::Status UnknownKey(const RouteWord& word) const {
    std::vector<std::string_view> known = {"listen", "from", "sni", "alpn", "to", "allow_dst"};
    for (const Setting<RouteOptions>& setting : kSettings) known.push_back(setting.name);
    const std::string nearest(Nearest(word.key, known));
    const std::string hint =
        nearest.empty()
            ? "a route has listen, from, sni, alpn, to, allow_dst and the options of --help"
            : "did you mean " + nearest + "?";
    return source_.Error(word.at, std::string(word.key) + ": unknown key; " + hint);
  }

  absl::Status About(std::string_view part, size_t at, const absl::Status& problem) const {
    const std::string what = part.empty() ? "\"\"" : std::string(part);
    return source_.Error(at, what + ": " + std::string(problem.message()));
  }
  absl::Status About(const RouteWord& word, const absl::Status& problem) const {
    return About(std::string(word.key) + "=" + std::string(word.value), word.at, problem);
  }

  const RouteSource& source_;
  const NameSources& names_;
  ParsedRoute& parsed_;
  Route& route_;
};

// `to` and `allow_dst` go together, and leave nothing to choose.
absl::Status CheckOriginalDst(const RouteSource& source, const std::vector<RouteWord>& words) {
  const auto find = [&](std::string_view key) {
    return std::find_if(words.begin(), words.end(),
                        [&](const RouteWord& word) { return word.key == key; });
  };
  const auto to = find("to");
  const auto allow_dst = find("allow_dst");
  if (to == words.end() || to->value != kOriginalDst) {
    if (allow_dst == words.end()) return absl::OkStatus();
    return source.Error(allow_dst->at, "allow_dst: only with to=original_dst");
  }
  if (allow_dst == words.end()) {
    return source.Error(to->at, "to=original_dst needs allow_dst=BLOCKS: where clients may go");
  }
  for (const RouteWord& word : words) {
    const auto* const end = std::end(kOfChosenBackends);
    if (std::find(std::begin(kOfChosenBackends), end, word.key) == end) continue;
    return source.Error(
        word.at, std::string(word.key) + ": not with to=original_dst, where there is no choice");
  }
  return absl::OkStatus();
}

// ---- Rules between routes.

// Whether a socket bound to `wide` also gets what is sent to `narrow`. Of the wildcards and of
// equal addresses only: which addresses the machine has is not known here.
bool Covers(const Endpoint& wide, const Endpoint& narrow) {
  if (wide == narrow) return true;
  if (!wide.is_any() || wide.port() != narrow.port()) return false;
  const bool same_family = wide.family() == narrow.family() && !narrow.dual_stack();
  return narrow.is_any() && (wide.dual_stack() || same_family);
}

// A listener's address that was seen, and whose it is.
struct Seen {
  Endpoint at;
  const Route* route;
};

// What keeps `listen` of `route` from being beside `other`; empty: nothing.
std::string Conflict(const Endpoint& listen, const Route& route, const Seen& other) {
  if (!Covers(other.at, listen) && !Covers(listen, other.at)) return "";
  if (other.route == &route) return "an earlier address covers this one";
  const std::string theirs = other.at.ToString() + " of route " + other.route->name;
  if (!(other.at == listen)) return "overlaps " + theirs;
  if (other.route->serves_all()) return "no client gets here: all go to route " + other.route->name;
  const auto different = DifferentAtListener(route.options, other.route->options);
  return different.empty() ? "" : std::string(different.front()) + " must be that of " + theirs;
}

absl::Status CheckListens(const ParsedRoute& parsed, std::vector<Seen>& seen) {
  for (size_t i = 0; i < parsed.route.listen.size(); ++i) {
    for (const Endpoint& at : parsed.route.listen[i].at) {
      const bool has_proxies = parsed.route.options.accept_proxy != AcceptProxy::kOff;
      if (at.is_unix() && !has_proxies && !parsed.route.from.empty()) {
        return parsed.error(parsed.listen_at[i],
                            "clients of a Unix socket have no address for from");
      }
      if (at.is_unix() && !has_proxies && !parsed.route.options.allow.empty()) {
        return parsed.error(parsed.listen_at[i],
                            "clients of a Unix socket have no address for allow");
      }
      if (at.is_unix() && parsed.route.to_original_dst()) {
        return parsed.error(parsed.listen_at[i],
                            "clients of a Unix socket have no original destination");
      }
      // SO_REUSEPORT would let the second one bind, and the kernel would deal connections to both.
      for (const Seen& other : seen) {
        const std::string conflict = at.asks_for_port() ? "" : Conflict(at, parsed.route, other);
        if (!conflict.empty()) return parsed.error(parsed.listen_at[i], conflict);
      }
      seen.push_back({at, &parsed.route});
      if (seen.size() > kListensMax) {
        return parsed.error(parsed.listen_at[i],
                            "more than " + std::to_string(kListensMax) + " addresses to listen on");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckProxy(const ParsedRoute& parsed) {
  const RouteOptions& options = parsed.route.options;
  if (options.send_proxy_tlvs != 0 && options.send_proxy == SendProxy::kV1) {
    return parsed.error(parsed.listen_at[0], "send_proxy=v1 has no TLVs; drop send_proxy_tlvs");
  }
  if (options.accept_proxy == AcceptProxy::kOff || !options.trusted.empty()) {
    return absl::OkStatus();
  }
  for (size_t i = 0; i < parsed.route.listen.size(); ++i) {
    if (parsed.route.listen[i].at.front().is_unix()) continue;  // its permissions say who may
    return parsed.error(parsed.listen_at[i],
                        "accept_proxy needs trusted=BLOCKS: the proxies that may say for whom they "
                        "connect");
  }
  return absl::OkStatus();
}

absl::Status CheckDestination(const ParsedRoute& parsed) {
  const RouteOptions& options = parsed.route.options;
  if (!parsed.route.to_original_dst() || !options.mptcp || options.transparent) {
    return absl::OkStatus();
  }
  return parsed.error(parsed.listen_at[0],
                      "mptcp goes not with to=original_dst, unless transparent: of Multipath TCP "
                      "the kernel tells no original destination");
}

absl::Status CheckBackends(const ParsedRoute& parsed) {
  const auto serves = [](const Backend& backend) { return backend.serves(); };
  const std::vector<Backend>& backends = parsed.route.backends;
  if (!backends.empty() && std::none_of(backends.begin(), backends.end(), serves)) {
    return parsed.error(parsed.backend_at[0],
                        "no backend gets connections: all are drained or of weight 0");
  }
  for (size_t i = 0; i < parsed.route.backends.size(); ++i) {
    for (const Endpoint& at : parsed.route.backends[i].at) {
      if (ConnectsTo(at, parsed.route)) {
        return parsed.error(parsed.backend_at[i],
                            "the route listens there: it would connect to itself");
      }
    }
  }
  return absl::OkStatus();
}

// The routes that `route` relays to, as far as that does not depend on the client.
std::vector<size_t> Nexts(const Route& route, const std::vector<ParsedRoute>& routes) {
  std::vector<size_t> nexts;
  for (size_t i = 0; i < routes.size(); ++i) {
    const Route& next = routes[i].route;
    const auto leads_there = [&](const Backend& backend) {
      return backend.serves() &&
             std::any_of(backend.at.begin(), backend.at.end(),
                         [&](const Endpoint& at) { return ConnectsTo(at, next); });
    };
    const std::vector<Backend>& backends = route.backends;
    if (next.serves_all() && std::any_of(backends.begin(), backends.end(), leads_there)) {
      nexts.push_back(i);
    }
  }
  return nexts;
}

// A connection that went round would take all places. Told of the last route of it.
absl::Status CheckCircles(const std::vector<ParsedRoute>& routes) {
  std::vector<std::vector<size_t>> nexts;
  nexts.reserve(routes.size());
  for (const ParsedRoute& parsed : routes) nexts.push_back(Nexts(parsed.route, routes));
  for (size_t start = routes.size(); start-- > 0;) {
    std::vector<bool> seen(routes.size());
    std::vector<size_t> open = nexts[start];
    while (!open.empty()) {
      const size_t at = open.back();
      open.pop_back();
      if (at == start) return routes[start].error(0, "the route relays to itself, over others");
      if (seen[at]) continue;
      seen[at] = true;
      open.insert(open.end(), nexts[at].begin(), nexts[at].end());
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Setting<RouteOptions>> RouteSettings() { return kSettings; }

std::vector<std::string_view> DifferentAtListener(const RouteOptions& a, const RouteOptions& b) {
  std::vector<std::string_view> names;
  for (const Setting<RouteOptions>& setting : kSettings) {
    const bool differs = GetField(setting.field, a) != GetField(setting.field, b);
    if (setting.at_listener && differs) names.push_back(setting.name);
  }
  return names;
}

std::string UnfitSource(const std::vector<Endpoint>& sources,
                        const std::vector<const Route*>& routes) {
  std::vector<int> families;
  for (const Route* const route : routes) {
    for (const Backend& backend : route->backends) {
      if (backend.is_discovered()) return "";  // it may be of any family
      families.push_back(backend.at.front().family());
    }
  }
  if (families.empty()) return "";
  for (const Endpoint& source : sources) {
    if (std::find(families.begin(), families.end(), source.family()) != families.end()) continue;
    return "no backend can be connected to from " + source.AddressToString();
  }
  return "";
}

absl::StatusOr<Listen> ParseListen(std::string_view text, ResolveFunction* resolve) {
  absl::StatusOr<std::vector<Endpoint>> found = Resolve(text, resolve);
  if (!found.ok()) return found.status();
  return Listen{std::string(text), *std::move(found)};
}

absl::StatusOr<Backend> ParseBackend(std::string_view text, ResolveFunction* hosts) {
  Backend backend;
  if (const absl::Status taken = TakeMax(text, backend.max); !taken.ok()) return taken;
  backend.backup = TakeSuffix(text, kBackup);
  backend.drain = !backend.backup && TakeSuffix(text, kDrain);
  const size_t mark = text.rfind('@');
  if (!IsUnix(text) && mark != text.npos) {
    return absl::InvalidArgumentError("unknown mark " + std::string(text.substr(mark)) +
                                      "; there are @backup and @drain, one of them");
  }
  if (const absl::Status taken = TakeWeight(text, backend.weight); !taken.ok()) return taken;
  if (text == kOriginalDst) {
    return absl::InvalidArgumentError(
        "original_dst stands alone, in a route: to=original_dst allow_dst=BLOCKS");
  }
  backend.text = text;
  if (IsService(text)) {
    const absl::Status named = CheckDnsName(text.substr(kService.size()));
    if (!named.ok()) return named;
    backend.question = {.srv = true, .name = std::string(text.substr(kService.size()))};
    return backend;
  }
  absl::StatusOr<std::vector<Endpoint>> found = Resolve(text, hosts);
  if (absl::IsNotFound(found.status())) return ParseHost(text, backend);
  if (!found.ok()) return found.status();
  for (const Endpoint& at : *found) {
    if (at.is_any()) {
      return absl::InvalidArgumentError("name the host to connect to, such as 127.0.0.1");
    }
    if (at.asks_for_port()) {
      return absl::InvalidArgumentError(kNoPort);
    }
  }
  backend.at = *std::move(found);
  return backend;
}

absl::StatusOr<ParsedRoute> ParseRoute(const RouteSource& source, const RouteOptions& defaults,
                                       const NameSources& names) {
  const absl::StatusOr<RouteText> text = ScanRoute(source);
  if (!text.ok()) return text.status();
  ParsedRoute parsed;
  parsed.route.name = text->name;
  parsed.route.options = defaults;
  parsed.error = [&source](size_t at, std::string_view problem) {
    return source.Error(at, problem);
  };
  Reader reader(source, names, parsed);
  for (const RouteWord& word : text->words) {
    if (const absl::Status read = reader.Read(word); !read.ok()) return read;
  }
  if (const absl::Status fits = CheckOriginalDst(source, text->words); !fits.ok()) return fits;
  for (const RouteWord& word : text->words) {
    if (word.key != "source") continue;
    const std::string unfit = UnfitSource(parsed.route.options.source, {&parsed.route});
    if (!unfit.empty()) return source.Error(word.at, unfit);
  }
  if (parsed.route.listen.empty()) return source.Error(0, "no listen=ADDRESS");
  if (parsed.route.backends.empty() && !parsed.route.is_local() &&
      !parsed.route.to_original_dst()) {
    return source.Error(0, "no to=BACKEND; to=echo answers itself");
  }
  return parsed;
}

std::vector<Endpoint> ListenAddresses(const std::vector<Route>& routes) {
  std::vector<Endpoint> all;
  for (const Route& route : routes) {
    for (const Listen& listen : route.listen) {
      for (const Endpoint& at : listen.at) {
        const bool is_known = std::find(all.begin(), all.end(), at) != all.end();
        if (at.asks_for_port() || !is_known) all.push_back(at);
      }
    }
  }
  return all;
}

Mode ModeOf(const std::vector<Route>& routes) {
  const auto has = [&](Mode mode) {
    return std::any_of(routes.begin(), routes.end(),
                       [&](const Route& route) { return route.mode == mode; });
  };
  return has(Mode::kProxy) ? Mode::kProxy : has(Mode::kEcho) ? Mode::kEcho : Mode::kDiscard;
}

std::string FormatBackend(const Backend& backend) {
  std::string text = backend.text;
  // A path may end as a weight or a mark does.
  const bool is_unclear = IsUnix(text) && (text.find('*') != text.npos || text.ends_with(kBackup) ||
                                           text.ends_with(kDrain));
  const bool may_be_max = text.find(kMax) != text.npos;
  if (backend.weight != 1 || is_unclear) text += "*" + std::to_string(backend.weight);
  if (backend.backup) text += kBackup;
  if (backend.drain) text += kDrain;
  if (backend.max != 0 || may_be_max) text.append(kMax).append(std::to_string(backend.max));
  return text;
}

std::string FormatRoute(const Route& route, const RouteOptions& defaults) {
  std::string text = route.name;
  const auto list = [&text](std::string_view key, const auto& items, auto print) {
    std::string_view separator = "=";
    for (const auto& item : items) {
      if (separator == "=") text.append(" ").append(key);
      text.append(separator).append(print(item));
      separator = ",";
    }
  };
  list("listen", route.listen, [](const Listen& listen) { return listen.text; });
  list("from", route.from, [](const Cidr& block) { return block.ToString(); });
  const auto same = [](const std::string& name) { return name; };
  list("sni", route.sni, same);
  list("alpn", route.alpn, same);
  if (route.is_local()) text.append(" to=").append(ToString(route.mode));
  list("to", route.backends, FormatBackend);
  if (route.to_original_dst()) {
    text.append(" to=").append(kOriginalDst).append(" allow_dst=").append(route.allow_dst.text());
  }
  for (const Setting<RouteOptions>& setting : kSettings) {
    const std::string value = GetField(setting.field, route.options);
    if (value == GetField(setting.field, defaults)) continue;
    text.append(" ").append(setting.name).append("=").append(value);
  }
  return text;
}

absl::Status CheckRoutes(const std::vector<ParsedRoute>& routes) {
  std::vector<Seen> seen;
  for (size_t i = 0; i < routes.size(); ++i) {
    const auto has_name = [&](const ParsedRoute& other) {
      return other.route.name == routes[i].route.name;
    };
    const auto end = routes.begin() + static_cast<ptrdiff_t>(i);
    if (std::any_of(routes.begin(), end, has_name)) {
      return routes[i].error(0, "an earlier route is called " + routes[i].route.name + " too");
    }
    absl::Status status = CheckListens(routes[i], seen);
    if (status.ok()) status = CheckProxy(routes[i]);
    if (status.ok()) status = CheckDestination(routes[i]);
    if (status.ok()) status = CheckBackends(routes[i]);
    if (!status.ok()) return status;
  }
  return CheckCircles(routes);
}

}  // namespace parkway
