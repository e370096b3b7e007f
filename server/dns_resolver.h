// SPDX-License-Identifier: Apache-2.0
//
// Name servers, asked by c-ares on fibers: the only one that knows it, besides dns_reply.h.
#ifndef PARKWAY_SERVER_DNS_RESOLVER_H_
#define PARKWAY_SERVER_DNS_RESOLVER_H_

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "netpoll/poller.h"
#include "sched/clock.h"
#include "server/question.h"
#include "server/resolver.h"

namespace parkway {

class DnsResolver final : public Resolver {
 public:
  // Of a service, so many hosts are asked for at a time.
  static constexpr int kQueriesMax = 16;
  // Addresses of a lookup, also of all hosts of a service. What is more is as what cannot be looked
  // up: it may be there or not.
  static constexpr size_t kAddressesMax = 4 * kFoundMax;
  // What takes longer is given up: a service of many hosts whose name servers are silent.
  static constexpr sched::Duration kLookupTime = std::chrono::minutes(1);

  struct Options {
    std::string servers{};  // ADDRESS[:PORT],...; empty: those of /etc/resolv.conf
    sched::Duration timeout = std::chrono::seconds(1);  // of the first try; later ones take longer
    int tries = 3;                                      // of each server
    DnsFamily family = DnsFamily::kAuto;
  };

  explicit DnsResolver(const Options& options);
  ~DnsResolver() override;
  DnsResolver(const DnsResolver&) = delete;
  DnsResolver& operator=(const DnsResolver&) = delete;

  // Of a host, IPv4 addresses, and IPv6 ones if there are no others; or as options.family says. A
  // name without a dot, or with fewer than ndots, is looked for in the search domains of
  // /etc/resolv.conf, which is read each time.
  absl::StatusOr<NameAnswer> Lookup(netpoll::Poller& poller, const Question& question,
                                    const std::atomic<bool>& cancelled) override;

 private:
  void Begin();
  void End();

  const Options options_;
  std::atomic<int64_t> running_{0};
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_DNS_RESOLVER_H_
