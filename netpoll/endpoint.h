// SPDX-License-Identifier: Apache-2.0
//
// Where to listen or to connect to: a socket address that can be read from text and printed back.
#ifndef PARKWAY_NETPOLL_ENDPOINT_H_
#define PARKWAY_NETPOLL_ENDPOINT_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace netpoll {

// A value: copied freely, comparable, no descriptor behind it.
//
//   text                  means
//   127.0.0.1:80          that IPv4 address
//   [::1]:80              that IPv6 address; [::]:80 is every IPv6 address and no IPv4 one
//   [fe80::1%eth0]:80     a link-local address, which needs its interface (by name or number)
//   :80  *:80             every address of both families: one IPv6 socket with IPV6_V6ONLY off
//   unix:/run/app.sock    a Unix socket in the file system
//   unix:@name            a Unix socket in Linux's abstract namespace
class Endpoint {
 public:
  // Names nothing: family() is AF_UNSPEC.
  Endpoint() = default;

  // Reads the numeric forms above; port 0 is allowed (the kernel chooses when listening). Asks no
  // name server and never blocks. Errors are kInvalidArgument and start with the text
  // ("127.0.0.1:99999: port must be 0-65535").
  static absl::StatusOr<Endpoint> Parse(std::string_view text);

  // Reads an address alone, 127.0.0.1, ::1 or fe80::1%eth0; the port is 0. Likewise.
  static absl::StatusOr<Endpoint> ParseAddress(std::string_view text);

  // What Parse() reads, or a host name and a port: every address of that name, at least one, in the
  // order in which RFC 6724 prefers them. BLOCKS THE THREAD, for many seconds when a name server is
  // silent: never on a worker. Errors: kInvalidArgument for bad text, kNotFound
  // for a name without an address, kUnavailable if the name servers gave no answer; all start with
  // the text.
  static absl::StatusOr<std::vector<Endpoint>> Resolve(std::string_view host_port);

  // As Resolve, but asks /etc/hosts alone, and for localhost nobody: kNotFound for a name that is
  // not there. BLOCKS THE THREAD on that file.
  static absl::StatusOr<std::vector<Endpoint>> ResolveFromHosts(std::string_view host_port);

  // What accept(), getsockname() or getpeername() gave. A family other than AF_INET, AF_INET6 and
  // AF_UNIX, or an address cut short, becomes the empty Endpoint. dual_stack() is false: an address
  // alone does not tell.
  static Endpoint FromSockaddr(const sockaddr* address, socklen_t size);

  // This address with another port: after listening on port 0, the one the kernel chose. REQUIRES:
  // not is_unix().
  Endpoint WithPort(uint16_t port) const;

  // The text from which Parse() makes this endpoint. Control characters, which only a peer's Unix
  // address can hold, are printed as \xNN, so that no peer can forge a line of a log.
  std::string ToString() const;
  // Of an IPv4 or IPv6 address, without the port: what ParseAddress() reads. REQUIRES: such a
  // family.
  std::string AddressToString() const;

  int family() const { return address_.ss_family; }
  uint16_t port() const;  // 0 for a Unix socket
  bool is_unix() const { return family() == AF_UNIX; }
  // When it is listened on, the kernel chooses the port, another one each time.
  bool asks_for_port() const { return !is_unix() && port() == 0; }
  bool is_any() const;       // 0.0.0.0 or ::, whatever dual_stack() says
  bool is_loopback() const;  // 127.0.0.0/8 or ::1
  // To be bound with IPV6_V6ONLY off. Where it is false, the listener turns IPV6_V6ONLY on and does
  // not depend on the sysctl net.ipv6.bindv6only.
  bool dual_stack() const { return dual_stack_; }

  // It stands for all addresses of this machine, and who listens here takes what is for `other`, if
  // that is one of them.
  bool CoversIfLocal(const Endpoint& other) const;

  // For bind() and connect().
  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return size_; }

  friend bool operator==(const Endpoint& a, const Endpoint& b);

 private:
  friend class CompactEndpoint;
  static Endpoint FromInet(const in_addr& address, uint16_t port);
  static Endpoint FromInet6(const in6_addr& address, uint32_t scope_id, uint16_t port);
  static Endpoint FromUnix(std::string_view sun_path);
  static void AddOnce(const Endpoint& endpoint, std::vector<Endpoint>& endpoints);
  static absl::StatusOr<Endpoint> ParseUnix(std::string_view text, std::string_view path);
  static absl::StatusOr<Endpoint> ParseInet(std::string_view text, std::string_view host,
                                            uint16_t port);
  static absl::StatusOr<Endpoint> ParseInet6(std::string_view text, std::string_view host,
                                             uint16_t port);

  std::string UnixToString() const;

  // Bytes past size_, and fields that do not identify the address (flow label, padding), are zero:
  // equality compares bytes.
  sockaddr_storage address_ = {};
  socklen_t size_ = sizeof(sa_family_t);
  bool dual_stack_ = false;
};

// The address of a peer in 24 bytes, to be kept with each connection. Of a Unix peer only that it
// is one; of a link-local address the interface, too. An IPv4 address that came over an IPv6 socket
// (::ffff:0:0/96) is one.
class CompactEndpoint {
 public:
  CompactEndpoint() = default;  // names nothing
  explicit CompactEndpoint(const Endpoint& endpoint)
      : CompactEndpoint(endpoint.data(), endpoint.size()) {}
  // What accept() gave, as Endpoint::FromSockaddr takes it.
  CompactEndpoint(const sockaddr* address, socklen_t size);

  Endpoint Expand() const;
  int family() const { return family_; }
  uint16_t port() const { return port_; }
  // Of the address alone: 4 of an IPv4 one, 16 of an IPv6 one, else none. Lives as long as this.
  std::span<const uint8_t> bytes() const {
    const std::span<const uint8_t> all = address_;
    return family_ == AF_INET ? all.last(4) : family_ == AF_INET6 ? all : all.first(0);
  }

 private:
  std::array<uint8_t, 16> address_{};  // IPv4 at its end
  uint32_t scope_id_ = 0;
  uint16_t port_ = 0;
  uint16_t family_ = AF_UNSPEC;
};

}  // namespace netpoll

#endif  // PARKWAY_NETPOLL_ENDPOINT_H_
