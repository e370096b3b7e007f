// SPDX-License-Identifier: Apache-2.0
//
// Addresses: the bytes are read as text, as people write it, and as a socket address, as a kernel
// gives it. No name server is asked: getaddrinfo() is this file's.
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/un.h>

#include <cstring>
#include <vector>

#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"

namespace netpoll {
namespace {

using sched::testing::Escaped;
using sched::testing::HoldsControl;
using sched::testing::Require;

void CheckError(const absl::Status& status, std::string_view text) {
  const std::string message(status.message());
  const std::string subject = (text.empty() ? "\"\"" : Escaped(text)) + ": ";
  Require(message.starts_with(subject), "an error starts with the text", message);
  Require(message.size() > subject.size(), "an error says what is wrong", message);
  Require(!HoldsControl(message), "an error is one line", message);
}

// What holds of any endpoint, wherever it came from.
void CheckEndpoint(const Endpoint& endpoint, std::string_view from) {
  Require(!HoldsControl(endpoint.ToString()), "an endpoint prints as one line", from);
  Require(endpoint.size() >= sizeof(sa_family_t) && endpoint.size() <= sizeof(sockaddr_un),
          "an address has a size the kernel takes", from);
  Require(endpoint.data()->sa_family == endpoint.family(), "data() has the family", from);
  Require(!endpoint.is_any() || !endpoint.is_loopback(), "no address is any and loopback", from);
  Require(!endpoint.dual_stack() || endpoint.is_any(), "only wildcards are dual-stack", from);
  if (endpoint.family() == AF_INET || endpoint.family() == AF_INET6) {
    Require(endpoint.WithPort(endpoint.port()) == endpoint, "WithPort() keeps the rest", from);
    Require(endpoint.WithPort(4711).port() == 4711, "WithPort() sets the port", from);
  }

  const Endpoint copy = Endpoint::FromSockaddr(endpoint.data(), endpoint.size());
  Require(endpoint.dual_stack() || copy == endpoint, "data() and size() make it again", from);
}

// The port is what stands behind the last colon.
void CheckInet(const Endpoint& endpoint, std::string_view text) {
  const std::string port(text.substr(text.rfind(':') + 1));
  Require(!port.empty() && std::stoull(port) == endpoint.port(), "the port is as written", text);
  const std::string_view host = text.substr(0, text.rfind(':'));
  const std::string printed = endpoint.ToString();
  const std::string printed_host = printed.substr(0, printed.rfind(':'));
  if (endpoint.dual_stack()) {
    Require(host.empty() || host == "*", "only :PORT and *:PORT are both families", text);
  } else if (endpoint.family() == AF_INET) {
    Require(host == printed_host, "an IPv4 address is written in one way", text);
  } else {
    Require(endpoint.family() == AF_INET6 && host.starts_with("[") && host.ends_with("]"),
            "an IPv6 address stands in brackets", text);
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(endpoint.data());
    Require((in6->sin6_scope_id != 0) == (host.find('%') != host.npos) &&
                (in6->sin6_scope_id != 0) == IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr),
            "link-local addresses, and no others, have an interface", text);
  }
}

void CheckUnix(const Endpoint& endpoint, std::string_view text) {
  Require(text.starts_with("unix:"), "only unix:... is a Unix socket", text);
  Require(endpoint.ToString() == text, "a Unix socket prints as it is written", text);
  std::string path(text.substr(std::strlen("unix:")));
  const bool is_abstract = path.front() == '@';
  if (is_abstract) path.front() = '\0';
  const auto* un = reinterpret_cast<const sockaddr_un*>(endpoint.data());
  const size_t size = offsetof(sockaddr_un, sun_path) + path.size() + (is_abstract ? 0 : 1);
  Require(endpoint.size() == size && size <= sizeof(sockaddr_un),
          "a path ends in NUL, an abstract name does not", text);
  Require(std::memcmp(un->sun_path, path.data(), path.size()) == 0, "the name is as written", text);
}

void CheckText(std::string_view text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  if (!endpoint.ok()) {
    Require(endpoint.status().code() == absl::StatusCode::kInvalidArgument,
            "a bad address is an invalid argument", text);
    CheckError(endpoint.status(), text);
    return;
  }
  CheckEndpoint(*endpoint, text);
  endpoint->is_unix() ? CheckUnix(*endpoint, text) : CheckInet(*endpoint, text);
  const absl::StatusOr<Endpoint> again = Endpoint::Parse(endpoint->ToString());
  Require(again.ok() && *again == *endpoint, "a printed endpoint is read back", text);
}

void CheckResolving(std::string_view text) {
  const absl::StatusOr<Endpoint> numeric = Endpoint::Parse(text);
  const absl::StatusOr<std::vector<Endpoint>> found = Endpoint::Resolve(text);
  if (!found.ok()) {
    Require(!numeric.ok(), "what Parse() takes resolves", text);
    CheckError(found.status(), text);
    return;
  }
  Require(!found->empty(), "a name that resolves has an address", text);
  if (numeric.ok()) {
    Require(found->size() == 1 && found->front() == *numeric, "numbers mean themselves", text);
  }
  const std::string port(text.substr(text.rfind(':') + 1));
  for (const Endpoint& endpoint : *found) {
    CheckEndpoint(endpoint, text);
    Require(endpoint.is_unix() || std::stoull(port) == endpoint.port(),
            "every address of a name has the port", text);
  }
}

void CheckSockaddr(const uint8_t* data, size_t size) {
  sockaddr_storage address = {};
  std::copy_n(data, std::min(size, sizeof(address)), reinterpret_cast<uint8_t*>(&address));
  const auto address_size = static_cast<socklen_t>(std::min(size, sizeof(address)));
  const Endpoint endpoint =
      Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&address), address_size);
  CheckEndpoint(endpoint, "(a socket address)");
  Require(endpoint.family() == AF_UNSPEC || endpoint.is_unix() || endpoint.size() <= size,
          "an address cut short is none", "(a socket address)");
  Require(!endpoint.dual_stack(), "an address alone is not dual-stack", "(a socket address)");
}

}  // namespace
}  // namespace netpoll

// A name server that knows the names which start with 'k', under one address of each family, the
// second of them twice.
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): glibc's names are reserved
extern "C" int getaddrinfo(const char* name, const char* /*service*/, const addrinfo* /*hints*/,
                           addrinfo** found) {
  using sched::testing::Require;
  Require(*name != '\0' && !sched::testing::HoldsControl(name) &&
              std::strpbrk(name, " :/%[],@") == nullptr,
          "only a host name is looked up", name);
  in_addr numeric;
  Require(inet_aton(name, &numeric) == 0, "a number is not looked up", name);
  if (*name != 'k') return *name == 'a' ? EAI_AGAIN : EAI_NONAME;
  static sockaddr_in in = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {1}, .sin_zero = {}};
  static sockaddr_in6 in6 = {.sin6_family = AF_INET6,
                             .sin6_port = 0,
                             .sin6_flowinfo = 0,
                             .sin6_addr = {},
                             .sin6_scope_id = 0};
  static addrinfo nodes[3] = {};
  for (addrinfo& node : nodes) {
    const bool is_first = &node == nodes;
    node.ai_family = is_first ? AF_INET : AF_INET6;
    node.ai_addr = is_first ? reinterpret_cast<sockaddr*>(&in) : reinterpret_cast<sockaddr*>(&in6);
    node.ai_addrlen = is_first ? sizeof(in) : sizeof(in6);
    node.ai_next = &node == &nodes[2] ? nullptr : &node + 1;
  }
  *found = nodes;
  return 0;
}

extern "C" void freeaddrinfo(addrinfo* /*found*/) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = sched::testing::TextOf(data, size);
  netpoll::CheckText(text);
  netpoll::CheckResolving(text);
  netpoll::CheckSockaddr(data, size);
  return 0;
}
