// SPDX-License-Identifier: Apache-2.0
#include "netpoll/endpoint.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <strings.h>
#include <sys/un.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "absl/status/status.h"

namespace netpoll {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";
constexpr size_t kUnixPathOffset = offsetof(sockaddr_un, sun_path);
// One byte stays free for the NUL, which Linux does not demand but other programs do.
constexpr size_t kUnixPathMax = sizeof(sockaddr_un::sun_path) - 1;

bool IsControl(char c) { return std::iscntrl(static_cast<unsigned char>(c)) != 0; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    char escaped[] = "\\x00";
    std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned char>(c));
    text += IsControl(c) ? std::string_view(escaped) : std::string_view(&c, 1);
  }
  return text;
}

std::string Describe(std::string_view text, std::string_view problem) {
  return (text.empty() ? "\"\"" : Printable(text)).append(": ").append(problem);
}

absl::Status Invalid(std::string_view text, std::string_view problem) {
  return absl::InvalidArgumentError(Describe(text, problem));
}

// A decimal number without sign, space or prefix.
template <class T>
std::optional<T> ParseNumber(std::string_view digits) {
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), IsDigit)) return std::nullopt;
  T value;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

struct HostPort {
  std::string_view host;
  bool bracketed = false;
  uint16_t port = 0;
};

absl::StatusOr<HostPort> SplitBracketed(std::string_view text) {
  const size_t end = text.find(']');
  if (end == text.npos) return Invalid(text, "the bracket is not closed");
  if (end + 1 == text.size() || text[end + 1] != ':') {
    return Invalid(text, "port is missing; write it behind the bracket, as in [::1]:80");
  }
  const std::optional<uint16_t> port = ParseNumber<uint16_t>(text.substr(end + 2));
  if (!port.has_value()) return Invalid(text, "port must be 0-65535");
  return HostPort{.host = text.substr(1, end - 1), .bracketed = true, .port = *port};
}

absl::StatusOr<HostPort> SplitHostPort(std::string_view text) {
  if (text.empty()) return Invalid(text, "address is empty");
  if (std::any_of(text.begin(), text.end(), IsControl)) {
    return Invalid(text, "address holds a control character");
  }
  if (text.find(' ') != text.npos) return Invalid(text, "address holds a space");
  if (text.front() == '[') return SplitBracketed(text);

  const size_t colon = text.rfind(':');
  if (colon == text.npos) return Invalid(text, "port is missing; write HOST:PORT or :PORT");
  const std::string_view host = text.substr(0, colon);
  if (host.find(':') != host.npos) {
    return Invalid(text, "an IPv6 address needs brackets, as in [::1]:80");
  }
  const std::optional<uint16_t> port = ParseNumber<uint16_t>(text.substr(colon + 1));
  if (!port.has_value()) return Invalid(text, "port must be 0-65535");
  return HostPort{.host = host, .port = *port};
}

bool IsUnix(std::string_view text) { return text.substr(0, kUnixPrefix.size()) == kUnixPrefix; }

// getaddrinfo() also takes what inet_aton() takes: 127.1, 0x7f000001, 010.0.0.1. Whoever writes
// those means something else, or hides something.
bool EndsInNumber(std::string_view host) {
  const std::string_view last = host.substr(host.rfind('.') + 1);  // npos + 1 == 0
  return !last.empty() && IsDigit(last.front()) &&
         std::all_of(last.begin(), last.end(),
                     [](unsigned char c) { return std::isxdigit(c) || c == 'x' || c == 'X'; });
}

bool IsHostName(std::string_view host) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) || std::strchr("-_.", c); };
  return !host.empty() && host.size() <= 253 && std::all_of(host.begin(), host.end(), allowed);
}

// A host's name and a port; `numeric` is what is wrong with it as an address.
absl::StatusOr<HostPort> SplitName(std::string_view text, const absl::Status& numeric) {
  if (IsUnix(text)) return numeric;
  const absl::StatusOr<HostPort> parts = SplitHostPort(text);
  if (!parts.ok()) return parts.status();
  if (parts->bracketed) return numeric;
  if (EndsInNumber(parts->host)) return Invalid(text, "not an IPv4 address");
  if (!IsHostName(parts->host)) return Invalid(text, "not a host name");
  return parts;
}

// `os_error` counts only with EAI_SYSTEM.
absl::Status ResolveError(std::string_view text, int error, int os_error) {
  const std::string message = Describe(text, "cannot resolve: ") +
                              (error == EAI_SYSTEM ? std::strerror(os_error) : gai_strerror(error));
  const bool no_answer = error == EAI_AGAIN || error == EAI_SYSTEM || error == EAI_MEMORY;
  return no_answer ? absl::UnavailableError(message) : absl::NotFoundError(message);
}

}  // namespace

Endpoint Endpoint::FromInet(const in_addr& address, uint16_t port) {
  Endpoint endpoint;
  auto* in = reinterpret_cast<sockaddr_in*>(&endpoint.address_);
  in->sin_family = AF_INET;
  in->sin_port = htons(port);
  in->sin_addr = address;
  endpoint.size_ = sizeof(sockaddr_in);
  return endpoint;
}

Endpoint Endpoint::FromInet6(const in6_addr& address, uint32_t scope_id, uint16_t port) {
  Endpoint endpoint;
  auto* in6 = reinterpret_cast<sockaddr_in6*>(&endpoint.address_);
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons(port);
  in6->sin6_addr = address;
  in6->sin6_scope_id = scope_id;
  endpoint.size_ = sizeof(sockaddr_in6);
  return endpoint;
}

// `sun_path` as the kernel counts it: an abstract name starts with NUL, a path has none.
Endpoint Endpoint::FromUnix(std::string_view sun_path) {
  Endpoint endpoint;
  auto* un = reinterpret_cast<sockaddr_un*>(&endpoint.address_);
  un->sun_family = AF_UNIX;
  std::copy(sun_path.begin(), sun_path.end(), un->sun_path);
  const bool is_path = !sun_path.empty() && sun_path.front() != '\0';
  const bool has_room = sun_path.size() <= kUnixPathMax;
  endpoint.size_ = kUnixPathOffset + sun_path.size() + (is_path && has_room ? 1 : 0);
  return endpoint;
}

absl::StatusOr<Endpoint> Endpoint::ParseUnix(std::string_view text, std::string_view path) {
  if (path.empty() || path == "@") {
    return Invalid(text, "name is missing; write unix:/path or unix:@name");
  }
  if (std::any_of(path.begin(), path.end(), IsControl)) {
    return Invalid(text, "path holds a control character");
  }
  if (path.size() > kUnixPathMax) {
    return Invalid(text, "path is longer than " + std::to_string(kUnixPathMax) + " bytes");
  }
  std::string sun_path(path);
  if (sun_path.front() == '@') sun_path.front() = '\0';
  return FromUnix(sun_path);
}

absl::StatusOr<Endpoint> Endpoint::ParseInet6(std::string_view text, std::string_view host,
                                              uint16_t port) {
  const size_t percent = host.find('%');
  in6_addr address;
  if (inet_pton(AF_INET6, std::string(host.substr(0, percent)).c_str(), &address) != 1) {
    return Invalid(text, "not an IPv6 address");
  }
  const bool link_local = IN6_IS_ADDR_LINKLOCAL(&address);
  if (percent == host.npos) {
    if (link_local) {
      return Invalid(text, "a link-local address needs its interface, as in [fe80::1%eth0]:80");
    }
    return FromInet6(address, 0, port);
  }
  if (!link_local) return Invalid(text, "only a link-local address has an interface");

  const std::string interface(host.substr(percent + 1));
  uint32_t scope_id = if_nametoindex(interface.c_str());
  if (scope_id == 0) scope_id = ParseNumber<uint32_t>(interface).value_or(0);
  if (scope_id == 0) return Invalid(text, "no interface is called \"" + interface + "\"");
  return FromInet6(address, scope_id, port);
}

absl::StatusOr<Endpoint> Endpoint::ParseInet(std::string_view text, std::string_view host,
                                             uint16_t port) {
  in_addr address;
  if (inet_pton(AF_INET, std::string(host).c_str(), &address) != 1) {
    return Invalid(text, "not a numeric address");
  }
  return FromInet(address, port);
}

absl::StatusOr<Endpoint> Endpoint::ParseAddress(std::string_view text) {
  if (text.empty()) return Invalid(text, "address is empty");
  return text.find(':') == text.npos ? ParseInet(text, text, 0) : ParseInet6(text, text, 0);
}

absl::StatusOr<Endpoint> Endpoint::Parse(std::string_view text) {
  if (IsUnix(text)) return ParseUnix(text, text.substr(kUnixPrefix.size()));

  const absl::StatusOr<HostPort> parts = SplitHostPort(text);
  if (!parts.ok()) return parts.status();
  if (parts->bracketed) return ParseInet6(text, parts->host, parts->port);
  if (parts->host.empty() || parts->host == "*") {
    Endpoint any = FromInet6(in6addr_any, 0, parts->port);
    any.dual_stack_ = true;
    return any;
  }
  return ParseInet(text, parts->host, parts->port);
}

absl::StatusOr<std::vector<Endpoint>> Endpoint::Resolve(std::string_view host_port) {
  absl::StatusOr<Endpoint> numeric = Parse(host_port);
  if (numeric.ok()) return std::vector<Endpoint>{*numeric};
  const absl::StatusOr<HostPort> parts = SplitName(host_port, numeric.status());
  if (!parts.ok()) return parts.status();

  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(std::string(parts->host).c_str(), nullptr, &hints, &found);
  if (error != 0) return ResolveError(host_port, error, errno);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);

  std::vector<Endpoint> endpoints;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const Endpoint endpoint = FromSockaddr(at->ai_addr, at->ai_addrlen);
    if (endpoint.family() != AF_INET && endpoint.family() != AF_INET6) continue;
    // /etc/hosts may name one address twice.
    AddOnce(endpoint.WithPort(parts->port), endpoints);
  }
  if (endpoints.empty()) return ResolveError(host_port, EAI_NONAME, 0);
  return endpoints;
}

absl::StatusOr<std::vector<Endpoint>> Endpoint::ResolveFromHosts(std::string_view host_port) {
  absl::StatusOr<Endpoint> numeric = Parse(host_port);
  if (numeric.ok()) return std::vector<Endpoint>{*numeric};
  const absl::StatusOr<HostPort> parts = SplitName(host_port, numeric.status());
  if (!parts.ok()) return parts.status();

  std::vector<Endpoint> endpoints;
  std::ifstream file("/etc/hosts");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string address;
    words >> address;
    const absl::StatusOr<Endpoint> at = ParseAddress(address);
    for (std::string name; at.ok() && words >> name;) {
      if (strcasecmp(name.c_str(), std::string(parts->host).c_str()) != 0) continue;
      AddOnce(at->WithPort(parts->port), endpoints);
    }
  }
  // RFC 6761: whatever the file says or does not say.
  if (endpoints.empty() && parts->host == "localhost") {
    endpoints.push_back(FromInet({htonl(INADDR_LOOPBACK)}, parts->port));
  }
  if (endpoints.empty()) return absl::NotFoundError(Describe(host_port, "not in /etc/hosts"));
  return endpoints;
}

void Endpoint::AddOnce(const Endpoint& endpoint, std::vector<Endpoint>& endpoints) {
  if (std::find(endpoints.begin(), endpoints.end(), endpoint) == endpoints.end()) {
    endpoints.push_back(endpoint);
  }
}

Endpoint Endpoint::FromSockaddr(const sockaddr* address, socklen_t size) {
  sa_family_t family;
  if (size < sizeof(family)) return Endpoint();
  std::memcpy(&family, &address->sa_family, sizeof(family));
  // Of a Unix path that fills sun_path the kernel counts the NUL too, one byte more than the
  // structure has.
  const size_t size_max = family == AF_UNIX ? sizeof(sockaddr_un) : sizeof(sockaddr_storage);
  size = std::min<socklen_t>(size, size_max);
  // Copied, since `address` may point at any kind of buffer.
  sockaddr_storage copy = {};
  std::memcpy(&copy, address, size);
  switch (copy.ss_family) {
    case AF_INET: {
      if (size < sizeof(sockaddr_in)) return Endpoint();
      const auto* in = reinterpret_cast<const sockaddr_in*>(&copy);
      return FromInet(in->sin_addr, ntohs(in->sin_port));
    }
    case AF_INET6: {
      if (size < sizeof(sockaddr_in6)) return Endpoint();
      const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&copy);
      return FromInet6(in6->sin6_addr, in6->sin6_scope_id, ntohs(in6->sin6_port));
    }
    case AF_UNIX: {
      std::string_view path(reinterpret_cast<const sockaddr_un*>(&copy)->sun_path,
                            size - kUnixPathOffset);
      if (!path.empty() && path.front() != '\0') path = path.substr(0, path.find('\0'));
      return FromUnix(path);
    }
    default:
      return Endpoint();
  }
}

Endpoint Endpoint::WithPort(uint16_t port) const {
  Endpoint endpoint = *this;
  if (family() == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&endpoint.address_)->sin_port = htons(port);
  } else if (family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&endpoint.address_)->sin6_port = htons(port);
  }
  return endpoint;
}

uint16_t Endpoint::port() const {
  if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&address_)->sin_port);
  if (family() == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&address_)->sin6_port);
  }
  return 0;
}

bool Endpoint::CoversIfLocal(const Endpoint& other) const {
  const bool has_family = family() == other.family() || (dual_stack() && !other.is_unix());
  return is_any() && has_family && port() == other.port();
}

bool Endpoint::is_any() const {
  if (family() == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(&address_)->sin_addr.s_addr == htonl(INADDR_ANY);
  }
  return family() == AF_INET6 &&
         IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(&address_)->sin6_addr);
}

bool Endpoint::is_loopback() const {
  if (family() == AF_INET) {
    const in_addr address = reinterpret_cast<const sockaddr_in*>(&address_)->sin_addr;
    return ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  return family() == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(&address_)->sin6_addr);
}

std::string Endpoint::UnixToString() const {
  std::string path(reinterpret_cast<const sockaddr_un*>(&address_)->sun_path,
                   size_ - kUnixPathOffset);
  if (path.empty()) return "unix:(unnamed)";
  if (path.front() == '\0') {
    path.front() = '@';
  } else {
    path.resize(path.find('\0') == path.npos ? path.size() : path.find('\0'));
  }
  return std::string(kUnixPrefix) + Printable(path);
}

std::string Endpoint::AddressToString() const {
  if (family() == AF_INET) {
    char text[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&address_)->sin_addr, text,
              sizeof(text));
    return text;
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address_);
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
  if (in6->sin6_scope_id == 0) return text;
  char name[IF_NAMESIZE] = "";
  const bool has_name = if_indextoname(in6->sin6_scope_id, name) != nullptr;
  return std::string(text) + "%" + (has_name ? name : std::to_string(in6->sin6_scope_id));
}

std::string Endpoint::ToString() const {
  const std::string port_text = ":" + std::to_string(port());
  if (dual_stack_) return port_text;
  switch (family()) {
    case AF_INET:
      return AddressToString() + port_text;
    case AF_INET6:
      return "[" + AddressToString() + "]" + port_text;
    case AF_UNIX:
      return UnixToString();
    default:
      return "(no address)";
  }
}

bool operator==(const Endpoint& a, const Endpoint& b) {
  return a.size_ == b.size_ && a.dual_stack_ == b.dual_stack_ &&
         std::memcmp(&a.address_, &b.address_, a.size_) == 0;
}

CompactEndpoint::CompactEndpoint(const sockaddr* address, socklen_t size) {
  if (size < sizeof family_) return;
  std::memcpy(&family_, &address->sa_family, sizeof family_);
  if (family_ == AF_INET && size >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof in);
    std::memcpy(&address_[12], &in.sin_addr, sizeof in.sin_addr);
    port_ = ntohs(in.sin_port);
  } else if (family_ == AF_INET6 && size >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in;
    std::memcpy(&in, address, sizeof in);
    std::memcpy(address_.data(), &in.sin6_addr, sizeof in.sin6_addr);
    port_ = ntohs(in.sin6_port);
    scope_id_ = in.sin6_scope_id;
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) family_ = AF_INET;
  } else if (family_ != AF_UNIX) {
    family_ = AF_UNSPEC;
  }
}

Endpoint CompactEndpoint::Expand() const {
  if (family_ == AF_INET) {
    in_addr address;
    std::memcpy(&address, &address_[12], sizeof address);
    return Endpoint::FromInet(address, port_);
  }
  if (family_ == AF_INET6) {
    in6_addr address;
    std::memcpy(&address, address_.data(), sizeof address);
    return Endpoint::FromInet6(address, scope_id_, port_);
  }
  return family_ == AF_UNIX ? Endpoint::FromUnix("") : Endpoint();
}

}  // namespace netpoll
