// SPDX-License-Identifier: Apache-2.0
//
// Connections that the daemon has made and that came back to it. A packet filter that leads here
// what this machine connects to, and does not leave the daemon's own connections out, leads each of
// them back, and its own in turn, without end.
#ifndef PARKWAY_SERVER_OWN_CONNECTIONS_H_
#define PARKWAY_SERVER_OWN_CONNECTIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include "netpoll/endpoint.h"
#include "sched/mutex.h"

namespace parkway {

class OwnConnections {
 public:
  // The one who noted a connection.
  enum class End : uint8_t { kAccepted, kMade };

  // What one end notes, as long as it lives.
  class Note {
   public:
    Note() = default;
    Note(Note&& other) noexcept { *this = std::move(other); }
    Note& operator=(Note&& other) noexcept {
      std::swap(all_, other.all_);
      std::swap(key_, other.key_);
      std::swap(end_, other.end_);
      return *this;
    }
    ~Note() {
      if (all_ != nullptr) all_->Forget(key_, end_);
    }

   private:
    friend class OwnConnections;
    OwnConnections* all_ = nullptr;  // nullptr: nothing is noted
    uint64_t key_ = 0;
    End end_ = End::kAccepted;
  };

  // `seed`: so that nobody can choose addresses that are taken for others.
  explicit OwnConnections(uint64_t seed) : seed_(seed) {}

  // Notes a connection as both of its ends know it: `from` where, and `to` where before a filter
  // changed that. False: the other end has noted it, too, so that it goes round. Of two that note
  // it at once, one is told. Two of this machine's are never the same; `from` is one of its
  // addresses, or it is not to be noted as made. Never blocks; any thread.
  bool Enter(End end, const netpoll::CompactEndpoint& from, const netpoll::CompactEndpoint& to,
             Note& note);

 private:
  // How often each end is noted: once, or once more where one that is gone lingers here.
  using Counts = std::array<uint32_t, 2>;
  struct alignas(64) Shard {
    sched::Mutex mu;
    std::unordered_map<uint64_t, Counts> ends ABSL_GUARDED_BY(mu);  // by key
  };

  uint64_t KeyOf(const netpoll::CompactEndpoint& from, const netpoll::CompactEndpoint& to) const;
  Shard& ShardOf(uint64_t key) { return shards_[key % shards_.size()]; }
  void Forget(uint64_t key, End end);

  const uint64_t seed_;
  std::array<Shard, 16> shards_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_OWN_CONNECTIONS_H_
