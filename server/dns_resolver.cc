// SPDX-License-Identifier: Apache-2.0
#include "server/dns_resolver.h"

#include <ares.h>
#include <arpa/nameser.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "netpoll/fd_set.h"
#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"
#include "server/bounded_count.h"
#include "server/dns_reply.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using netpoll::FdSet;
using netpoll::IoResult;
using netpoll::IoStatus;

// Of a name with its dots, RFC 1035.
constexpr size_t kNameMax = 253;

constexpr char kTooMany[] = "too many addresses";

// It is looked at so often whether the lookup was cancelled.
constexpr sched::Duration kLook = std::chrono::milliseconds(100);

// For the operator. c-ares says that a server could not be contacted when it failed or refused,
// too.
std::string ProblemOf(int status) {
  switch (status) {
    case ARES_ECONNREFUSED:
      return "all name servers fail or refuse";
    case ARES_ETIMEOUT:
    case ARES_ECANCELLED:  // at the lookup's own limit
      return "no name server answers in time";
    default:
      return ares_strerror(status);
  }
}

// A name that cannot be written in a question is nobody's.
bool IsNoSuchName(int status) { return status == ARES_ENOTFOUND || status == ARES_EBADNAME; }

// A name whose addresses are asked for, and what became of it.
struct Host {
  std::string name{};
  std::vector<Endpoint> at{};
  sched::Duration ttl = sched::Duration::max();
  bool exists = true;
  std::string problem{};  // of a query that failed; empty: none did
};

// c-ares for one lookup: its sockets live in a set of ours, on which the fiber waits. No function
// of it is called while another is on the stack, and none of ours that it calls blocks.
class Channel {
 public:
  Channel(netpoll::Poller& poller, const DnsResolver::Options& options,
          const std::atomic<bool>& cancelled)
      : fds_(poller),
        family_(options.family),
        cancelled_(cancelled),
        until_(sched::After(sched::Now(), DnsResolver::kLookupTime)) {
    ares_options wanted = {};
    wanted.flags = ARES_FLAG_EDNS;
    wanted.ednspsz = 1232;  // dnsflagday.net/2020: no fragments
    wanted.timeout =
        static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(options.timeout).count());
    wanted.tries = options.tries;
    char dns_alone[] = "b";
    wanted.lookups = dns_alone;
    wanted.sock_state_cb = &Channel::SocketChanged;
    wanted.sock_state_cb_data = this;
    problem_ = ares_init_options(&channel_, &wanted,
                                 ARES_OPT_FLAGS | ARES_OPT_EDNSPSZ | ARES_OPT_TIMEOUTMS |
                                     ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB);
    if (problem_ != ARES_SUCCESS) return;
    if (!options.servers.empty()) {
      problem_ = ares_set_servers_ports_csv(channel_, options.servers.c_str());
    }
    if (problem_ != ARES_SUCCESS) ares_destroy(channel_);
  }
  ~Channel() {
    if (problem_ == ARES_SUCCESS) ares_destroy(channel_);
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // ARES_SUCCESS, or why it cannot be used.
  int problem() const { return problem_; }

  // The names to try for one that an operator wrote, in their order.
  std::vector<std::string> Candidates(const std::string& name);
  // The addresses of each, of the families that are wanted.
  void Resolve(std::span<Host> hosts);
  // The SRV records of a name.
  absl::StatusOr<ServiceRecords> AskForService(const std::string& name, bool* exists);

 private:
  struct Query {
    Channel& channel;
    int status = ARES_ECANCELLED;
    std::vector<uint8_t> reply{};
  };

  static void SocketChanged(void* self, ares_socket_t fd, int read, int write) {
    // Where it cannot be watched, the query times out.
    (void)static_cast<Channel*>(self)->fds_.Watch(fd, read != 0, write != 0);
  }
  static void Answered(void* arg, int status, int, unsigned char* reply, int size) {
    auto* const query = static_cast<Query*>(arg);
    query->status = status;
    if (status == ARES_SUCCESS) query->reply.assign(reply, reply + size);
    --query->channel.open_;
  }

  bool is_over() const {
    return cancelled_.load(std::memory_order_relaxed) || sched::Now() >= until_;
  }
  // Nothing once it is over: what was not asked is cancelled.
  void Start(const std::string& name, int type, Query& query) {
    if (is_over()) return;
    ++open_;
    ares_query(channel_, name.c_str(), ns_c_in, type, &Channel::Answered, &query);
  }
  void Ask(std::span<Host* const> hosts, int type);
  void Take(const Query& query, int type, Host& host);
  void RunDownTo(int open);
  void Step();

  FdSet fds_;
  const DnsFamily family_;
  const std::atomic<bool>& cancelled_;
  const sched::Deadline until_;
  ares_channel channel_ = nullptr;
  int problem_ = ARES_SUCCESS;
  int open_ = 0;  // queries without an answer
  size_t room_ = DnsResolver::kAddressesMax;
};

std::string_view WithoutDots(std::string_view domain) {
  while (domain.starts_with('.')) domain.remove_prefix(1);
  while (domain.ends_with('.')) domain.remove_suffix(1);
  return domain;
}

// As resolv.conf(5) has it. Not ares_search, which goes on to the next domain when a name server
// fails, and then says that there is no such name. "search ." is what systemd-resolved writes where
// there are no domains.
std::vector<std::string> Channel::Candidates(const std::string& name) {
  if (name.ends_with('.')) return {name};
  ares_options found = {};
  int mask = 0;
  if (ares_save_options(channel_, &found, &mask) != ARES_SUCCESS) return {name};
  const auto dots = std::count(name.begin(), name.end(), '.');
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(found.ndomains) + 1);
  for (int i = 0; i < found.ndomains; ++i) {
    const std::string_view domain = WithoutDots(found.domains[i]);
    if (domain.empty() || name.size() + 1 + domain.size() > kNameMax) continue;
    names.push_back(name + "." + std::string(domain));
  }
  names.insert(dots >= found.ndots ? names.begin() : names.end(), name);
  ares_destroy_options(&found);
  return names;
}

void Channel::RunDownTo(int open) {
  while (open_ > open) {
    if (is_over()) return ares_cancel(channel_);  // which answers all
    Step();
  }
}

// Until something came, or something is due.
void Channel::Step() {
  timeval most = {.tv_sec = 0, .tv_usec = kLook / std::chrono::microseconds(1)};
  timeval due;
  const timeval* const wait = ares_timeout(channel_, &most, &due);
  const auto span = std::chrono::seconds(wait->tv_sec) + std::chrono::microseconds(wait->tv_usec);
  std::span<const FdSet::Ready> ready;
  // At least a millisecond, whatever c-ares' own clock says.
  const sched::Deadline next =
      sched::After(sched::Now(), std::max<sched::Duration>(span, std::chrono::milliseconds(1)));
  const IoResult waited = fds_.Await(next, &ready);
  if (!waited.ok()) {
    if (waited.status != IoStatus::kTimeout) sched::SleepUntil(next);
    return ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
  }
  for (const FdSet::Ready& one : ready) {
    ares_process_fd(channel_, one.readable ? one.fd : ARES_SOCKET_BAD,
                    one.writable ? one.fd : ARES_SOCKET_BAD);
  }
}

void Channel::Resolve(std::span<Host> hosts) {
  std::vector<Host*> all;
  for (Host& host : hosts) all.push_back(&host);
  if (family_ != DnsFamily::kIpv6) Ask(all, ns_t_a);
  if (family_ == DnsFamily::kIpv4) return;
  // Of a name that there is not, or whose IPv4 addresses are not to be had, nothing more is asked.
  std::erase_if(all, [&](const Host* host) {
    const bool enough = family_ == DnsFamily::kAuto && !host->at.empty();
    return enough || !host->exists || (family_ == DnsFamily::kAuto && !host->problem.empty());
  });
  Ask(all, ns_t_aaaa);
}

void Channel::Ask(std::span<Host* const> hosts, int type) {
  std::deque<Query> queries;
  for (const Host* const host : hosts) {
    RunDownTo(DnsResolver::kQueriesMax - 1);
    Start(host->name, type, queries.emplace_back(Query{*this}));
  }
  RunDownTo(0);
  for (size_t i = 0; i < hosts.size(); ++i) Take(queries[i], type, *hosts[i]);
}

void Channel::Take(const Query& query, int type, Host& host) {
  if (query.status == ARES_ENODATA) return;
  if (IsNoSuchName(query.status)) {
    host.exists = false;
    return;
  }
  if (query.status != ARES_SUCCESS) {
    host.problem = ProblemOf(query.status);
    return;
  }
  const absl::StatusOr<AddressRecords> records =
      ParseAddressReply(query.reply, type == ns_t_a ? AF_INET : AF_INET6);
  if (!records.ok()) {
    host.problem = std::string(records.status().message());
    return;
  }
  if (records->at.empty()) return;
  const size_t taken = std::min(room_, records->at.size());
  if (taken < records->at.size()) host.problem = kTooMany;
  room_ -= taken;
  host.at.insert(host.at.end(), records->at.begin(),
                 records->at.begin() + static_cast<std::ptrdiff_t>(taken));
  host.ttl = std::min(host.ttl, records->ttl);
}

absl::StatusOr<ServiceRecords> Channel::AskForService(const std::string& name, bool* exists) {
  Query query{*this};
  Start(name, ns_t_srv, query);
  RunDownTo(0);
  *exists = !IsNoSuchName(query.status);
  if (query.status == ARES_ENODATA || !*exists) return ServiceRecords();
  if (query.status != ARES_SUCCESS) return absl::UnavailableError(ProblemOf(query.status));
  return ParseServiceReply(query.reply);
}

// ---- One lookup.

absl::StatusOr<NameAnswer> LookupHost(Channel& channel, const std::string& name) {
  NameAnswer answer;
  answer.why_none = "no such name";
  for (const std::string& candidate : channel.Candidates(name)) {
    Host host{.name = candidate};
    channel.Resolve(std::span(&host, 1));
    if (host.at.empty() && !host.problem.empty()) return absl::UnavailableError(host.problem);
    if (host.exists) answer.why_none = "it has no addresses";
    if (host.at.empty()) continue;
    for (const Endpoint& at : host.at) answer.found.push_back({.at = at});
    answer.ttl = host.ttl;
    answer.why_partial = host.problem;
    break;
  }
  return answer;
}

// The addresses of the hosts that serve it.
absl::StatusOr<NameAnswer> ResolveService(Channel& channel, const ServiceRecords& service) {
  std::map<std::string, std::vector<const ServiceRecord*>> targets;
  for (const ServiceRecord& record : service.records) {
    if (targets.size() == kFoundMax && !targets.contains(record.target)) continue;
    targets[record.target].push_back(&record);
  }
  std::vector<Host> hosts;
  hosts.reserve(targets.size());
  for (const auto& [target, records] : targets) hosts.push_back({.name = target});
  channel.Resolve(hosts);

  NameAnswer answer;
  answer.why_none = "its hosts have no addresses";
  answer.ttl = service.ttl;
  for (Host& host : hosts) {
    answer.ttl = std::min(answer.ttl, host.ttl);
    for (const ServiceRecord* const record : targets[host.name]) {
      // The same host at many ports has as many times its addresses.
      const size_t room = DnsResolver::kAddressesMax - answer.found.size();
      if (host.at.size() > room) host.problem = kTooMany;
      for (const Endpoint& at : std::span(host.at).first(std::min(room, host.at.size()))) {
        answer.found.push_back({at.WithPort(record->port), record->weight, record->priority});
      }
    }
    if (!host.problem.empty()) answer.why_partial = host.name + ": " + host.problem;
  }
  if (!answer.why_partial.empty() && answer.found.empty()) {
    return absl::UnavailableError(answer.why_partial);
  }
  return answer;
}

absl::StatusOr<NameAnswer> LookupService(Channel& channel, const std::string& name) {
  NameAnswer none;
  none.why_none = "no such name";
  for (const std::string& candidate : channel.Candidates(name)) {
    bool exists = true;
    const absl::StatusOr<ServiceRecords> service = channel.AskForService(candidate, &exists);
    if (!service.ok()) return absl::UnavailableError(service.status().message());
    if (exists) none.why_none = "it has no SRV records";
    if (!service->records.empty()) return ResolveService(channel, *service);
  }
  return none;
}

}  // namespace

DnsResolver::DnsResolver(const Options& options) : options_(options) {
  PARKWAY_CHECK(ares_library_init(ARES_LIB_INIT_ALL) == ARES_SUCCESS, 0);
}

DnsResolver::~DnsResolver() { ares_library_cleanup(); }

void DnsResolver::Begin() {
  constexpr auto full = [](void* running) {
    return IsAt(kLookupsMax,
                static_cast<std::atomic<int64_t>*>(running)->load(std::memory_order_seq_cst));
  };
  while (!TakeOne(kLookupsMax, running_)) {
    sched::CurrentParkingLot().Wait(&running_, sched::WaitReason::kLock, full, &running_);
  }
}

void DnsResolver::End() {
  running_.fetch_sub(1, std::memory_order_seq_cst);
  sched::CurrentParkingLot().Wake(&running_, 1);
}

absl::StatusOr<NameAnswer> DnsResolver::Lookup(netpoll::Poller& poller, const Question& question,
                                               const std::atomic<bool>& cancelled) {
  const auto is_cancelled = [&] { return cancelled.load(std::memory_order_relaxed); };
  Begin();
  absl::StatusOr<NameAnswer> answer = absl::CancelledError();
  if (!is_cancelled()) {
    Channel channel(poller, options_, cancelled);
    if (channel.problem() != ARES_SUCCESS) {
      answer = absl::UnavailableError(ares_strerror(channel.problem()));
    } else {
      answer =
          question.srv ? LookupService(channel, question.name) : LookupHost(channel, question.name);
    }
  }
  End();
  if (is_cancelled()) return absl::CancelledError();
  return answer;
}

}  // namespace parkway
