// SPDX-License-Identifier: Apache-2.0
//
// The access log: a line per session. docs/operations.md says what stands in it.
#ifndef PARKWAY_SERVER_ACCESS_LOG_H_
#define PARKWAY_SERVER_ACCESS_LOG_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "netpoll/endpoint.h"
#include "sched/clock.h"
#include "sched/mutex.h"
#include "server/log_target.h"

namespace parkway {

enum class AccessEvent : uint8_t { kStart, kProgress, kEnd };

// What a line tells. Empty names and spans of kNone: there is none. A span may be below 0, and
// counts as 0 then: it began on one worker and ended on another, whose round is older.
struct AccessEntry {
  static constexpr sched::Duration kNone = sched::Duration::min();

  AccessEvent event = AccessEvent::kEnd;
  int64_t at_ns = 0;  // since 1970
  uint64_t id = 0;
  netpoll::CompactEndpoint client{};
  bool greeted = false;              // it had to say something first:
  netpoll::CompactEndpoint proxy{};  // who connected for it, if that is not itself
  std::string_view server_name{};    // whom it named in TLS
  std::string_view listener{};
  std::string_view route{};
  std::string_view backend{};
  sched::Duration queued = kNone;
  sched::Duration connect = kNone;     // of the backend that was tried last
  sched::Duration first_byte = kNone;  // for the client, from the beginning
  sched::Duration total{0};            // from the beginning
  int64_t bytes_up = 0;
  int64_t bytes_down = 0;
  std::string_view reason{};  // of an end
  int retries = 0;
  int64_t sessions = 0;  // of the daemon, at that moment
  int worker = 0;
};

// A line has at most so many bytes: of each name kAccessNameMax are written, the longest there are.
inline constexpr size_t kAccessLineMax = 4096;
inline constexpr size_t kAccessNameMax = 128;

// Writes the line, with its end, to `to`, which has room for kAccessLineMax; returns where it ends.
// Control characters and blanks are written \xNN, in JSON \u00NN, so that nobody forges a line or a
// column.
char* WriteAccessLine(AccessFormat format, const AccessEntry& entry, char* to);

// Gathers lines for each worker, so that a short connection costs no lock that workers share and
// wakes nobody, and hands them on together: those that are kFlushBytes, or kFlushAfter old.
class AccessLog {
 public:
  static constexpr size_t kFlushBytes = 32 << 10;
  static constexpr sched::Duration kFlushAfter = std::chrono::milliseconds(100);

  // Takes whole lines. Any thread; must not block.
  using Sink = std::function<void(std::string_view lines)>;

  AccessLog(Sink sink, AccessFormat format, int workers);

  // Fiber only; never blocks.
  void Add(const AccessEntry& entry);

 private:
  // What was written on one worker; another may hand it on.
  struct alignas(64) Batch {
    sched::Mutex mu;
    std::unique_ptr<char[]> lines ABSL_GUARDED_BY(mu);  // of kBatchBytes; nullptr before the first
    size_t size ABSL_GUARDED_BY(mu) = 0;
    bool has_flusher ABSL_GUARDED_BY(mu) = false;
  };
  static constexpr size_t kBatchBytes = kFlushBytes + kAccessLineMax;

  bool MustFlush(Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(batch.mu);
  void Flush(Batch& batch);

  const Sink sink_;
  const AccessFormat format_;
  std::vector<Batch> batches_;
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_ACCESS_LOG_H_
