// SPDX-License-Identifier: Apache-2.0
//
// Server: the PROXY protocol. Clients that have to say for whom they connect, and backends that are
// told.
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"
#include "server/proxy_receive.h"
#include "server/server.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoResult;

// The client has its place.
void Server::StartHandshake(Conn&& client, SessionFacts facts, Door& door) {
  sessions_.fetch_add(1, std::memory_order_seq_cst);
  door.greeting.fetch_add(1, std::memory_order_seq_cst);
  Handshakes::iterator place;
  {
    sched::MutexLock lock(door.mu);
    place = door.handshakes.insert(door.handshakes.end(), {std::move(client), std::move(facts)});
  }
  const bool spawned = sched::Spawn([this, &door, place] { Greet(door, place); });
  PARKWAY_CHECK(spawned, sessions_.load());  // fiber_count_max has room for every client's halves
}

// The fiber of one handshake.
void Server::Greet(Door& door, Handshakes::iterator place) {
  EndReason refused = Hear(*place, door.frontend->options);
  Handshakes mine;
  {
    sched::MutexLock lock(door.mu);
    mine.splice(mine.end(), door.handshakes, place);  // from here on nobody else ends it
  }
  auto& [client, facts] = mine.front();
  if (client.closed()) refused = EndOfAll();
  ServedRoute* const route = refused == EndReason::kNone ? RouteOf(facts.client, door) : nullptr;
  if (route != nullptr) {
    StartSession(std::move(client), std::move(facts), *route, door);
  } else {
    if (refused == EndReason::kProxyEmpty) client.Close();  // with FIN, as it has ended itself
    TurnAway(client, facts, refused == EndReason::kNone ? EndReason::kNoRoute : refused);
    LeavePlace(/*took_one=*/true);
  }
  CountOut();
  if (door.greeting.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    sched::CurrentParkingLot().WakeAll(&door.greeting);
  }
}

// Whom the client speaks for.
EndReason Server::Hear(Handshake& handshake, const RouteOptions& options) {
  auto& [client, facts] = handshake;
  client.SetReadDeadline(sched::After(sched::Now(), options.handshake_timeout));
  auto header = std::make_unique<ProxyHeader>();
  const EndReason refused = ReceiveProxyHeader(client, options.accept_proxy, *header);
  client.SetReadDeadline(sched::kNever);
  if (refused != EndReason::kNone) return refused;
  facts.arrival = std::make_unique<SessionFacts::Arrival>();
  facts.arrival->proxy = facts.client;
  if (header->has_addresses) facts.client = netpoll::CompactEndpoint(header->source);
  facts.arrival->header = std::move(header);
  return EndReason::kNone;
}

// Before the door is done with.
void Server::AwaitHandshakes(Door& door) {
  constexpr auto some = [](void* count) {
    return static_cast<std::atomic<int>*>(count)->load(std::memory_order_seq_cst) > 0;
  };
  while (some(&door.greeting)) {
    sched::CurrentParkingLot().Wait(&door.greeting, sched::WaitReason::kLock, some, &door.greeting);
  }
}

void Server::EndHandshakes() {
  sched::MutexLock doors_lock(doors_mu_);
  for (const auto& door : doors_) {
    sched::MutexLock lock(door->mu);
    for (Handshake& handshake : door->handshakes) handshake.client.Abort();
  }
}

// Tells the backend, if it wants to know, who the client is: before anything else.
IoResult Server::Introduce(Session& session, sched::Deadline deadline) const {
  const RouteOptions& options = static_cast<ServedRoute&>(session.route()).config().options;
  if (options.send_proxy == SendProxy::kOff) return {};
  const SessionFacts& facts = session.facts();
  const ProxyHeader* const received =
      facts.arrival != nullptr ? facts.arrival->header.get() : nullptr;
  ProxyToSend header;
  if (received != nullptr && received->has_addresses) {
    header.source = received->source;
    header.destination = received->destination;
  } else {
    header.source = facts.client.Expand();
    header.destination = session.client().local();
  }
  header.checksum = (options.send_proxy_tlvs & kProxyTlvChecksum) != 0;
  std::string unique_id;
  if ((options.send_proxy_tlvs & kProxyTlvUniqueId) != 0) {
    unique_id = unique_ids_ + std::to_string(facts.id);
    header.unique_id = unique_id;
  }
  if ((options.send_proxy_tlvs & kProxyTlvReceived) != 0 && received != nullptr) {
    header.tlvs = received->tlvs;
  }
  const std::string bytes = WriteProxyHeader(options.send_proxy, header);
  session.backend().SetWriteDeadline(deadline);
  const IoResult sent = session.backend().Write(std::as_bytes(std::span(bytes)));
  session.backend().SetWriteDeadline(sched::kNever);
  return sent;
}

}  // namespace parkway
