// SPDX-License-Identifier: Apache-2.0
#include "netpoll/socket_options.h"

#include <netinet/tcp.h>

#include <cstring>
#include <string_view>

namespace netpoll {
namespace {

constexpr int kYes = 1;

// A setsockopt for the option of that name.
struct OptionCall {
  std::string_view option;
  int level;
  int name;
  const void* value;
  socklen_t size;
};

int ToSeconds(sched::Duration span) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::seconds>(span).count());
}

unsigned int ToMilliseconds(sched::Duration span) {
  return static_cast<unsigned int>(
      std::chrono::duration_cast<std::chrono::milliseconds>(span).count());
}

// Makes the calls in turn, until one returns another value than 0: that, else 0.
template <class Make>
int ForEachCall(const SocketOptions& options, Make make) {
  int error = 0;
  const auto set = [&](std::string_view option, int level, int name, const auto& value) {
    if (error == 0) error = make(OptionCall{option, level, name, &value, sizeof value});
  };
  if (const int idle = ToSeconds(options.keepalive_idle); idle > 0) {
    constexpr int kInterval = kKeepaliveInterval / std::chrono::seconds(1);
    set("keepalive_idle", SOL_SOCKET, SO_KEEPALIVE, kYes);
    set("keepalive_idle", IPPROTO_TCP, TCP_KEEPIDLE, idle);
    set("keepalive_idle", IPPROTO_TCP, TCP_KEEPINTVL, kInterval);
    set("keepalive_idle", IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes);
  }
  if (const unsigned int timeout = ToMilliseconds(options.user_timeout); timeout > 0) {
    set("user_timeout", IPPROTO_TCP, TCP_USER_TIMEOUT, timeout);
  }
  if (const std::string& name = options.congestion; !name.empty() && error == 0) {
    error = make(OptionCall{"congestion", IPPROTO_TCP, TCP_CONGESTION, name.data(),
                            static_cast<socklen_t>(name.size())});
  }
  if (options.mark != 0) set("mark", SOL_SOCKET, SO_MARK, options.mark);
  if (options.rcvbuf != 0) set("rcvbuf", SOL_SOCKET, SO_RCVBUF, options.rcvbuf);
  if (options.sndbuf != 0) set("sndbuf", SOL_SOCKET, SO_SNDBUF, options.sndbuf);
  return error;
}

int MakeCall(const Kernel& kernel, int fd, const OptionCall& call) {
  return kernel.SetSockOpt(fd, call.level, call.name, call.value, call.size);
}

std::string ValueOf(const SocketOptions& options, std::string_view option) {
  if (option == "keepalive_idle") return std::to_string(ToSeconds(options.keepalive_idle)) + "s";
  if (option == "user_timeout") return std::to_string(ToMilliseconds(options.user_timeout)) + "ms";
  if (option == "congestion") return options.congestion;
  if (option == "mark") return std::to_string(options.mark);
  return std::to_string(option == "rcvbuf" ? options.rcvbuf : options.sndbuf) + "B";
}

std::string WhyRefused(std::string_view option, int error) {
  if (option == "mark" && error == EPERM) return "needs CAP_NET_ADMIN";
  if (option == "congestion" && error == ENOENT) {
    return "the kernel has no such algorithm; net.ipv4.tcp_available_congestion_control has them";
  }
  if (option == "congestion" && error == EPERM) {
    return "needs CAP_NET_ADMIN, or its name in net.ipv4.tcp_allowed_congestion_control";
  }
  return std::strerror(error);
}

absl::Status RefusedOption(const SocketOptions& options, std::string_view option,
                           const std::string& why) {
  return absl::FailedPreconditionError(std::string(option) + "=" + ValueOf(options, option) + ": " +
                                       why);
}

// Linux counts its own overhead as another half.
bool IsCut(const Kernel& kernel, int fd, int name, int bytes) {
  int got = 0;
  socklen_t size = sizeof got;
  return bytes != 0 && kernel.GetSockOpt(fd, SOL_SOCKET, name, &got, &size) == 0 && got / 2 < bytes;
}

// Without IP_BIND_ADDRESS_NO_PORT bind would take a port for itself: then an address had as many
// connections as ports in all, instead of to each backend.
int BindSource(const Kernel& kernel, int fd, const Endpoint& source) {
  const int set = kernel.SetSockOpt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &kYes, sizeof kYes);
  return set < 0 ? set : kernel.Bind(fd, source.data(), source.size());
}

absl::Status CheckTransparent(const Kernel& kernel, int fd) {
  const int error = SetTransparent(kernel, fd);
  if (error == 0) return absl::OkStatus();
  const std::string why =
      error == -EPERM ? "needs CAP_NET_RAW or CAP_NET_ADMIN" : std::strerror(-error);
  return absl::FailedPreconditionError("source=client: " + why);
}

bool HasSource(const ConnectOptions& options) { return options.source.family() != AF_UNSPEC; }

absl::Status CheckSource(const Kernel& kernel, int fd, const Endpoint& source) {
  const int error = BindSource(kernel, fd, source);
  if (error == 0) return absl::OkStatus();
  const std::string why =
      error == -EADDRNOTAVAIL ? "not an address of this machine" : std::strerror(-error);
  return absl::FailedPreconditionError("source=" + source.AddressToString() + ": " + why);
}

}  // namespace

int SetSocketOptions(const Kernel& kernel, int fd, const SocketOptions& options) {
  return ForEachCall(options, [&](const OptionCall& call) { return MakeCall(kernel, fd, call); });
}

absl::Status CheckSocketOptions(const Kernel& kernel, int fd, const SocketOptions& options) {
  std::string_view last;
  const int error = ForEachCall(options, [&](const OptionCall& call) {
    last = call.option;
    return MakeCall(kernel, fd, call);
  });
  if (error != 0) return RefusedOption(options, last, WhyRefused(last, -error));
  if (IsCut(kernel, fd, SO_RCVBUF, options.rcvbuf)) {
    return RefusedOption(options, "rcvbuf", "more than net.core.rmem_max");
  }
  if (IsCut(kernel, fd, SO_SNDBUF, options.sndbuf)) {
    return RefusedOption(options, "sndbuf", "more than net.core.wmem_max");
  }
  return absl::OkStatus();
}

int SetTransparent(const Kernel& kernel, int fd) {
  return kernel.SetSockOpt(fd, IPPROTO_IP, IP_TRANSPARENT, &kYes, sizeof kYes);
}

int SetConnectOptions(const Kernel& kernel, int fd, const ConnectOptions& options) {
  if (const int error = SetSocketOptions(kernel, fd, options.socket); error < 0) return error;
  if (options.transparent) {
    if (const int error = SetTransparent(kernel, fd); error < 0) return error;
  }
  return HasSource(options) ? BindSource(kernel, fd, options.source) : 0;
}

absl::Status CheckConnectOptions(const Kernel& kernel, int family, const ConnectOptions& options) {
  const int fd = kernel.Socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::OkStatus();  // a matter of the moment, or of who connects there
  absl::Status status = CheckSocketOptions(kernel, fd, options.socket);
  if (status.ok() && options.transparent) status = CheckTransparent(kernel, fd);
  if (status.ok() && HasSource(options)) status = CheckSource(kernel, fd, options.source);
  (void)kernel.Close(fd);
  return status;
}

}  // namespace netpoll
