// SPDX-License-Identifier: Apache-2.0
//
// The C++20 memory model as a machine that can be stepped: for each operation it tells which
// results the standard allows, and performs the chosen one. explorer.h tries them all.
//
// Views, after Kang et al., "A promising semantics for relaxed-memory concurrency" (without
// promises: a load never returns a store that its own thread's later steps bring about):
//
// - Every atomic has a history: its messages (the values stored) in modification order. A store may
//   be placed behind any message that its thread knows, not only at the end; a read-modify-write
//   sits directly behind the message it read, for ever.
// - A view is, for each atomic, the newest message known. A load may return the one that its thread
//   knows or any newer one.
// - Release attaches the thread's view to the message, acquire joins a message's view to the
//   thread's. The message of a read-modify-write also keeps the view of the message it read: that
//   is the release sequence.
// - For seq_cst the standard wants one order S of all such operations, which agrees with "strongly
//   happens before" and with modification order, reads-from and from-reads of each atomic
//   ([atomics.order]). S is not the order in which the machine steps: that would forbid what
//   AArch64 does to a relaxed store behind a seq_cst one. It is kept as the partial order that is
//   forced so far. Of the operations that must precede a given one in S, only the newest place in
//   each history matters, so such a set is again a view (`sc` below).
//
// Fences are not modelled; we use none. Consume is acquire.
#ifndef PARKWAY_SCHED_TESTING_MEMORY_MODEL_H_
#define PARKWAY_SCHED_TESTING_MEMORY_MODEL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace sched::testing {

inline constexpr int kThreadsMax = 8;
inline constexpr int kLocationsMax = 64;
inline constexpr int kNoThread = -1;  // set-up and the checks at the end

// 128 bits, so that two states are never taken for one.
class StateHash {
 public:
  void Mix(uint64_t word) {
    a_ = Scramble(a_ ^ word, 0x9e3779b97f4a7c15);
    b_ = Scramble(b_ + word, 0xd6e8feb86659fd93);
  }
  void Mix(const StateHash& other) {
    Mix(other.a_);
    Mix(other.b_);
  }
  uint64_t low() const { return a_; }
  bool operator==(const StateHash&) const = default;

 private:
  static uint64_t Scramble(uint64_t x, uint64_t factor) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(x ^ (x >> 29) ^ 0xa0761d6478bd642f) * factor;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  uint64_t a_ = 1;
  uint64_t b_ = 2;
};

// What is known of each location.
// - atomic: the place of a message in the history, counted from 1; 0: not even its construction
// - plain: bit 0: the last write; bit 1 + t: thread t's last read since
// - mutex: 1: its construction
struct View {
  std::array<uint16_t, kLocationsMax> at{};
};

enum class LocationKind : uint8_t { kAtomic, kPlain, kMutex, kGhost };

enum class OpKind : uint8_t {
  kLoad,
  kStore,
  kExchange,
  kCompareExchange,        // when it succeeds;
  kCompareExchangeFailed,  // when not: a load, with an order and a Site of its own
  kFetchAdd,
  kFetchSub,
  kFetchOr,
  kFetchAnd,
  kLock,
  kTryLock,
  kUnlock,
  kGhostGet,
  kGhostSet,
  kBlockUntil,
  kChoose,
  kPlainRead,
  kPlainWrite,
};

// One step of a virtual thread.
struct Operation {
  using Modify = uint64_t (*)(uint64_t old, uint64_t operand);

  OpKind kind;
  int location = -1;
  std::memory_order order = std::memory_order_relaxed;
  std::memory_order failed_order = std::memory_order_relaxed;
  uint64_t operand = 0;     // to store, or Modify's
  uint64_t expected = 0;    // kCompareExchange
  Modify modify = nullptr;  // fetch_*
};

struct Effect {
  uint64_t read = 0;
  uint64_t written = 0;
  bool wrote = false;      // kCompareExchange: it succeeded; kTryLock: it got the lock
  int newer = 0;           // messages newer than the one read, or than the place of the one stored
  int read_from_step = 0;  // the step that stored what was read
};

class MemoryModel {
 public:
  // Back to nothing; location numbers stay the same from execution to execution.
  void Reset();

  // Sets *location and returns true, or returns false if there are too many.
  bool Create(LocationKind kind, int thread, uint64_t value, int* location);
  void Destroy(int location) { locations_[location].live = false; }

  // From here on there are threads; they know of all that was constructed.
  void StartThreads(int count);

  // Does `thread` know that the location was constructed? Otherwise touching it is a race.
  bool KnowsConstruction(int thread, int location) const;

  // The number of different results of an atomic operation, counting only those that read one of
  // the `newest` messages. 0 is the result of sequential consistency.
  int Outcomes(int thread, const Operation& op, int newest);
  // `step` numbers the operations of one execution from 1.
  Effect Perform(int thread, const Operation& op, int outcome, int step);

  // Plain variables. `value` stands for the contents. On a race, *other is the thread of the other
  // access.
  bool PlainRead(int thread, int location, int* other);
  bool PlainWrite(int thread, int location, uint64_t value, int* other);
  uint64_t PlainValue(int location) const { return locations_[location].value; }

  // Mutexes. `section` identifies what the holder may have done to the data that the lock guards.
  int holder(int location) const { return locations_[location].holder; }
  void Lock(int thread, int location);
  void Unlock(int thread, int location, const StateHash& section);
  const StateHash& sections(int location) const { return locations_[location].sections; }

  // The newest value; for set-up, ghosts, conditions, and the checks at the end.
  uint64_t Latest(int location) const;
  // The newest value becomes `value` without any ordering.
  void SetLatest(int location, uint64_t value);
  // As if by a relaxed load that returned the newest value.
  void SeeLatest(int thread, int location);

  LocationKind kind(int location) const { return locations_[location].kind; }
  // The how-manieth of its constructor's locations it is; the thread that made it.
  int ordinal(int location) const { return locations_[location].ordinal; }
  int owner(int location) const { return locations_[location].owner; }

  // A name for the value that is the same in all executions, even if it is an address of something
  // allocated. `thread` came by the value, if nobody did before, as a consequence of `when`.
  uint64_t Name(int thread, const StateHash& when, uint64_t value);
  // Addresses in this block are named by their offset: better, for whoever comes by them first.
  void AddBlock(const void* begin, size_t bytes) {
    blocks_.push_back({reinterpret_cast<uintptr_t>(begin), bytes});
  }

  // Adds all that the future of the threads in `unfinished` (a mask) may depend on.
  void Hash(unsigned unfinished, StateHash* hash);

 private:
  struct Message {
    uint64_t value = 0;
    int step = 0;           // that stored it
    bool attached = false;  // a read-modify-write: nothing may come between it and its predecessor
    View view;              // what an acquire load of it learns
    View sc;                // what precedes in S every seq_cst operation behind such a load
    View sc_writer;         // what precedes its seq_cst store in S, with itself; else empty
    View sc_readers;        // the same for all seq_cst loads of it together
  };

  struct Location {
    LocationKind kind = LocationKind::kAtomic;
    bool live = false;
    int owner = kNoThread;
    int ordinal = 0;
    std::vector<Message> history;  // atomic
    uint64_t value = 0;            // plain, ghost
    uint16_t present = 0;          // plain: what a writer must know, in the bits of View
    int last_writer = kNoThread;   // plain
    int holder = kNoThread;        // mutex
    View view;                     // mutex: what its next holder learns
    View sc;
    StateHash sections;  // mutex: all critical sections in order
  };

  struct Thread {
    View view;
    View sc;  // what precedes its next seq_cst operation in S
  };

  struct Block {
    uint64_t begin;
    uint64_t bytes;
  };

  struct Named {
    uint64_t value;
    uint64_t name;
  };

  // The candidate messages of a load or read-modify-write, or places of a store, newest first.
  void Enumerate(int thread, const Operation& op);
  bool IsReadable(int thread, int location, size_t index, std::memory_order order) const;
  bool IsReplaceable(const Location& location, size_t index) const;
  Effect Load(int thread, int location, size_t index, std::memory_order order);
  Effect Store(int thread, const Operation& op, size_t index, int step);
  Effect ReadModifyWrite(int thread, const Operation& op, size_t index, uint64_t value, int step);
  void Insert(int location, size_t index, const Message& message);
  void OrderInS(int thread, int location, size_t index, bool is_write);
  void Join(View& view, const View& other) const;
  template <class Visit>
  void ForEachView(Visit visit);
  template <class Visit>
  void ForEachScView(Visit visit);

  std::vector<Location> locations_;  // never shrinks; `live` tells which exist in this execution
  int count_ = 0;
  View bits_;  // all ones for plain variables, whose entries in a view are bits
  std::array<std::vector<int>, kThreadsMax + 1> by_owner_;  // [owner + 1][ordinal]
  std::array<int, kThreadsMax + 1> created_{};
  std::array<Thread, kThreadsMax> threads_;
  int thread_count_ = 0;
  std::vector<uint16_t> candidates_;
  std::vector<Named> names_;
  std::vector<Block> blocks_;
};

bool IsAcquire(std::memory_order order);
bool IsRelease(std::memory_order order);

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_MEMORY_MODEL_H_
