// SPDX-License-Identifier: Apache-2.0
//
// Server: clients that have to say something before it is known which route serves them, for whom
// they connect (the PROXY protocol) or to whom (TLS); and backends that are told of their clients.
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "sched/check.h"
#include "sched/fibers.h"
#include "sched/parking_lot.h"
#include "server/hello_receive.h"
#include "server/proxy_receive.h"
#include "server/server.h"

namespace parkway {

using netpoll::Conn;
using netpoll::IoResult;

namespace {

// Where the client connected to; over an IPv6 socket, an IPv4 client to an IPv4 address.
netpoll::Endpoint LocalOf(Conn& client) {
  const netpoll::Endpoint local = client.local();
  return local.is_unix() ? local : netpoll::CompactEndpoint(local).Expand();
}

}  // namespace

// The client has its place.
void Server::StartHandshake(Conn&& client, const SessionFacts& facts, const Entrance& meanwhile,
                            Door& door) {
  sessions_.fetch_add(1, std::memory_order_seq_cst);
  door.greeting.fetch_add(1, std::memory_order_seq_cst);
  Handshakes::iterator place;
  {
    sched::MutexLock lock(door.mu);
    place = door.handshakes.insert(door.handshakes.end(),
                                   {std::move(client), facts, nullptr, meanwhile});
  }
  const bool spawned = sched::Spawn([this, &door, place] { Greet(door, place); });
  PARKWAY_CHECK(spawned, sessions_.load());  // fiber_count_max has room for every client's halves
}

// The fiber of one handshake.
void Server::Greet(Door& door, Handshakes::iterator place) {
  ClientHello hello;
  Entrance entrance = {.refused = Hear(door, *place, hello)};
  Handshakes mine;
  {
    sched::MutexLock lock(door.mu);
    mine.splice(mine.end(), door.handshakes, place);  // from here on nobody else ends it
    auto& [client, facts, arrival, meanwhile] = mine.front();
    Leave(meanwhile, facts.client);  // its own place may be its source's last one
    if (client.closed()) entrance.refused = EndOfAll();
    if (entrance.refused == EndReason::kNone) entrance = Enter(facts.client, hello, door);
  }
  auto& [client, facts, arrival, meanwhile] = mine.front();
  if (entrance.refused == EndReason::kNone) {
    StartSession(std::move(client), facts, std::move(arrival), *entrance.route, door);
  } else {
    const bool ended_itself =
        entrance.refused == EndReason::kProxyEmpty || entrance.refused == EndReason::kHelloEmpty;
    if (ended_itself) client.Close();  // with FIN
    TurnAway(client, facts, arrival.get(), entrance, door);
    LeavePlace(door.frontend->listening);
  }
  CountOut();
  if (door.greeting.fetch_sub(1, std::memory_order_seq_cst) == 1) {
    sched::CurrentParkingLot().WakeAll(&door.greeting);
  }
}

// All that the client has to say before it is known who serves it.
EndReason Server::Hear(Door& door, Handshake& handshake, ClientHello& hello) {
  const RouteOptions& options = door.frontend->options;
  Conn& client = handshake.client;
  handshake.arrival = std::make_unique<SessionArrival>();
  handshake.arrival->heard = true;
  client.SetReadDeadline(sched::After(sched::Now(), options.handshake_timeout));
  EndReason refused = EndReason::kNone;
  if (options.accept_proxy != AcceptProxy::kOff) {
    refused = HearHeader(options.accept_proxy, handshake);
  }
  if (refused == EndReason::kNone && HearsHellos(door)) {
    refused = HearHello(door, handshake, hello);
  }
  client.SetReadDeadline(sched::kNever);
  return refused;
}

// To whom it connects. Of whom a proxy told, the source is known only now.
EndReason Server::HearHello(Door& door, Handshake& handshake, ClientHello& hello) {
  auto& [client, facts, arrival, meanwhile] = handshake;
  if (meanwhile.route == nullptr) {
    sched::MutexLock lock(door.mu);
    meanwhile = EnterUnheard(facts.client, door);
  }
  if (meanwhile.refused != EndReason::kNone) return meanwhile.refused;
  const EndReason refused = ReceiveClientHello(client, hello);
  if (!hello.server_name.empty()) {
    arrival->server_name = std::make_unique<std::string>(hello.server_name);
  }
  return refused;
}

bool Server::HearsHellos(Door& door) {
  sched::MutexLock lock(door.mu);
  return door.hears_hellos;
}

// For whom the client connects.
EndReason Server::HearHeader(AcceptProxy accept, Handshake& handshake) {
  auto& [client, facts, arrival, meanwhile] = handshake;
  ProxyHeader header;
  const EndReason refused = ReceiveProxyHeader(client, accept, buffers, header);
  if (refused != EndReason::kNone) return refused;
  arrival->proxy = facts.client;
  if (header.has_addresses) facts.client = netpoll::CompactEndpoint(header.source);
  arrival->header = std::make_unique<ProxyHeader>(std::move(header));
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

// Tells the backend `to`, if it wants to know, who the client is: before anything else.
IoResult Server::Introduce(Session& session, const netpoll::Endpoint& to,
                           sched::Deadline deadline) const {
  const Route& route = static_cast<ServedRoute&>(session.route()).config();
  const RouteOptions& options = route.options;
  if (options.send_proxy == SendProxy::kOff) return {};
  const SessionFacts& facts = session.facts();
  const SessionArrival* const arrival = session.arrival();
  const ProxyHeader* const received = arrival != nullptr ? arrival->header.get() : nullptr;
  ProxyToSend header;
  if (received != nullptr && received->has_addresses) {
    header.source = received->source;
    header.destination = received->destination;
  } else {
    header.source = facts.client.Expand();
    header.destination = route.to_original_dst() ? to : LocalOf(session.client());
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
