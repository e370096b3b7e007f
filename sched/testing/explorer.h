// SPDX-License-Identifier: Apache-2.0
//
// Proves a small lock-free protocol over every interleaving and over every value that the C++20
// memory model lets a load return, by running the shipped source again and again (as loom does for
// Rust and CDSChecker for C++): a protocol is `template <class Atomics> class BasicX`, and
// ModelAtomics is the policy that is explored.
//
//   ExploreResult result = Explore([](Exploration& run) {
//     struct World {
//       BasicFlag<ModelAtomics> flag;
//       ModelAtomics::Plain<int> data = 0;
//     };
//     auto world = std::make_shared<World>();
//     run.Thread("writer", [world] { world->data = 1; world->flag.Set(); });
//     run.Thread("reader", [world] { if (world->flag.IsSet()) Expect(world->data == 1, "data"); });
//   });
//   EXPECT_TRUE(result.ok && result.complete) << result.failure;
//
// A violated Expect, a data race on a Plain, a use before construction is published, and a state in
// which every thread left is blocked, fail the exploration with the trace that led there.
// memory_model.h says what the memory may do.
//
// Rules for scenarios:
// - The scenario builds all shared objects anew in each call, and what the threads do depends on
//   nothing but them: no clock, no randomness (Choose is explored).
// - What threads share is atomic, Plain, Ghost, guarded by a policy's Mutex, or constant once the
//   threads run. Results for AtEnd may be left in ordinary variables that one thread writes and no
//   other thread reads.
// - Nodes that pass between threads are allocated by the scenario, not by a thread: an address that
//   the allocator hands out again is a value that the explorer does not know of.
// - No endless loop: a spin waits with BlockUntil.
// - No noexcept around an operation: an execution that is given up is unwound by an exception.
//
// Single-threaded; one exploration at a time per process.
#ifndef PARKWAY_SCHED_TESTING_EXPLORER_H_
#define PARKWAY_SCHED_TESTING_EXPLORER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "sched/testing/memory_model.h"

namespace sched::testing {

class Explorer;

// An access in the source.
struct Site {
  const char* file = "";
  int line = 0;
  OpKind kind = OpKind::kLoad;
  std::memory_order order = std::memory_order_seq_cst;  // as written in the source
  std::string object;  // its label, or "atomic#n" for the n-th location the scenario constructed
  int location = 0;    // that n
  std::string thread;  // } of one execution of it
  int operation_index = 0;  // } its place among the thread's operations, from 0
};
std::string ToString(const Site& site);

struct ExploreOptions {
  uint64_t executions_max = 5'000'000;
  // How often a thread that could go on may be interrupted; -1: no bound. A bound makes the result
  // a search, not a proof, and turns partial-order reduction off.
  int preemption_bound = -1;
  // Replaces the order of an access: the canary of an order that matters. A failed compare_exchange
  // asks separately.
  std::function<std::memory_order(const Site&)> weaken;
  // Off only to test the explorer: without the first, each state is expanded as often as it is
  // reached; without the second, in every order of the threads.
  bool merge_states = true;
  bool reduce_orders = true;
};

struct ExploreResult {
  bool ok = true;
  std::string failure;      // what failed, and the steps that led to it
  bool complete = false;    // everything was tried or a failure found; not at executions_max
  bool bounded = false;     // preemption_bound was in force
  uint64_t executions = 0;  // runs of the scenario
  uint64_t states = 0;      // distinct states
  int longest = 0;          // operations of the longest execution
  std::vector<Site> sites;  // the accesses that were executed, once per line, kind and order
};
std::string ToString(const ExploreResult& result);

namespace internal {
void AddBlock(const void* begin, size_t bytes);
}

class Exploration {
 public:
  // The shared objects. An address inside of them may be a value that threads store and compare: it
  // means the same in every execution. (Other addresses may be such values, too, but states are
  // then merged less often.)
  template <class T, class... Args>
  std::shared_ptr<T> Make(Args&&... args) {
    std::allocator<T> allocator;
    T* const at = allocator.allocate(1);
    internal::AddBlock(at, sizeof(T));
    new (at) T(std::forward<Args>(args)...);
    return std::shared_ptr<T>(at, [allocator](T* made) mutable {
      made->~T();
      allocator.deallocate(made, 1);
    });
  }

  // A virtual thread; at most kThreadsMax.
  void Thread(std::string name, std::function<void()> body);
  // Runs when all threads have finished. It sees the newest value of everything. Called once for
  // each final *state*.
  void AtEnd(std::function<void()> check);

 private:
  friend class Explorer;
  struct Body {
    std::string name;
    std::function<void()> run;
  };
  std::vector<Body> threads_;
  std::vector<std::function<void()>> checks_;
};

ExploreResult Explore(const std::function<void(Exploration&)>& scenario,
                      const ExploreOptions& options = {});

// Explores the scenario again for each way to weaken one access, the others staying as they are:
// seq_cst to acquire, release or acq_rel, and, if `below_seq_cst`, every order to every weaker one.
//
// Believe "needed"; doubt "not needed". Another scenario may need more, and an order that only
// keeps a load from returning a store which this very load brings about (load buffering: a release
// behind a load, an acquire before the store that overwrites what was loaded) is never found
// needed, since the model has no load buffering. The hardware has.
struct Weakening {
  Site site;
  std::memory_order order;  // instead of site.order
  ExploreResult result;     // !ok: the order is needed; ok, but not complete: nobody knows
};
std::vector<Weakening> ExploreWeakenings(const std::function<void(Exploration&)>& scenario,
                                         bool below_seq_cst, const ExploreOptions& options = {});

namespace internal {

// The call's place in the source. std::source_location is missing in clang 14.
struct Where {
  const char* file;
  int line;
  static constexpr Where Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

}  // namespace internal

// --- Inside a virtual thread

// Blocks the thread until the condition holds. It may read atomics (the order does not matter: it
// always gets the newest value) and Ghosts. Passing acts as relaxed loads of what was read: load
// again with acquire what shall synchronise.
void BlockUntil(const std::function<bool()>& condition,
                internal::Where where = internal::Where::Here());
// Also in AtEnd.
void Expect(bool condition, const char* what, internal::Where where = internal::Where::Here());
// 0 … n-1, each of which is explored.
int Choose(int n, internal::Where where = internal::Where::Here());

// An optimisation, often of a factor of ten: between two calls of the protocol, says that what this
// thread does from here on depends on its past only through these values (integers, bools, enums,
// pointers). States that differ in the rest are merged. What the thread left in ordinary variables
// for AtEnd is also past: name it, or leave it in a Ghost.
struct Remembered {
  template <class T>
  Remembered(const T& value);  // NOLINT(google-explicit-constructor): braces of mixed values
  uint64_t bits;
};
void RememberOnly(std::initializer_list<Remembered> values = {},
                  internal::Where where = internal::Where::Here());
// For hooks of the code under test: its CHECKs fail the exploration instead of the process.
bool InVirtualThread();
[[noreturn]] void Fail(const char* what);

namespace internal {

// The identity of a shared object, and its operations on values as bits.
class Location {
 public:
  Location(const Location&) = delete;
  Location& operator=(const Location&) = delete;

 protected:
  Location(LocationKind kind, uint64_t value);
  ~Location();

  uint64_t Load(OpKind kind, std::memory_order order, Where where) const;
  void Store(OpKind kind, uint64_t value, std::memory_order order, Where where);
  uint64_t ReadModifyWrite(OpKind kind, uint64_t operand, Operation::Modify modify,
                           std::memory_order order, Where where);
  bool CompareExchange(uint64_t& expected, uint64_t desired, std::memory_order order,
                       std::memory_order failed_order, Where where);
  void LockMutex(Where where);
  bool TryLockMutex(Where where);
  void UnlockMutex(Where where);
  void PlainRead() const;
  // `exact`: the bits are the value; otherwise a number is made up for what was written.
  void PlainWrite(bool exact, uint64_t bits);

 private:
  friend class testing::Explorer;
  friend void SetLabel(const Location& location, const char* label);
  int id_ = -1;
  uint64_t execution_ = 0;  // it lives in
};
void SetLabel(const Location& location, const char* label);

// Integers, bool, enums, pointers, and small structs without padding, as 64 bits.
template <class T>
inline constexpr bool kHasBits =
    std::conjunction_v<std::is_trivially_copyable<T>, std::has_unique_object_representations<T>,
                       std::bool_constant<sizeof(T) <= sizeof(uint64_t)>>;
template <class T>
uint64_t ToBits(const T& value) {
  static_assert(kHasBits<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));  // NOLINT(bugprone-sizeof-expression): T may be a pointer
  return bits;
}
template <class T>
T FromBits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));  // NOLINT(bugprone-sizeof-expression): T may be a pointer
  return value;
}

}  // namespace internal

template <class T>
Remembered::Remembered(const T& value) : bits(internal::ToBits(value)) {}

// Traces call the object by this name, a literal.
inline void Label(const internal::Location& object, const char* label) {
  internal::SetLabel(object, label);
}

// --- The policies

struct AsWritten {
  static constexpr std::memory_order Load(std::memory_order order) { return order; }
  static constexpr std::memory_order Store(std::memory_order order) { return order; }
  static constexpr std::memory_order Modify(std::memory_order order) { return order; }
};

struct WithoutSeqCst {
  static constexpr std::memory_order Load(std::memory_order order) {
    return order == std::memory_order_seq_cst ? std::memory_order_acquire : order;
  }
  static constexpr std::memory_order Store(std::memory_order order) {
    return order == std::memory_order_seq_cst ? std::memory_order_release : order;
  }
  static constexpr std::memory_order Modify(std::memory_order order) {
    return order == std::memory_order_seq_cst ? std::memory_order_acq_rel : order;
  }
};

template <class T, class Orders>
class ModelAtomic : public internal::Location {
  using Where = internal::Where;
  using Order = std::memory_order;

 public:
  ModelAtomic() : ModelAtomic(T{}) {}
  explicit ModelAtomic(T value) : Location(LocationKind::kAtomic, internal::ToBits(value)) {}

  T load(Order order, Where where = Where::Here()) const {
    return internal::FromBits<T>(Load(OpKind::kLoad, Orders::Load(order), where));
  }
  void store(T value, Order order, Where where = Where::Here()) {
    Store(OpKind::kStore, internal::ToBits(value), Orders::Store(order), where);
  }
  T exchange(T value, Order order, Where where = Where::Here()) {
    return Modify(OpKind::kExchange, value, nullptr, order, where);
  }
  bool compare_exchange_strong(T& expected, T desired, Order order, Where where = Where::Here()) {
    Order failed = order;
    if (order == std::memory_order_acq_rel) failed = std::memory_order_acquire;
    if (order == std::memory_order_release) failed = std::memory_order_relaxed;
    return compare_exchange_strong(expected, desired, order, failed, where);
  }
  bool compare_exchange_strong(T& expected, T desired, Order order, Order failed_order,
                               Where where = Where::Here()) {
    uint64_t bits = internal::ToBits(expected);
    if (CompareExchange(bits, internal::ToBits(desired), Orders::Modify(order),
                        Orders::Load(failed_order), where)) {
      return true;
    }
    expected = internal::FromBits<T>(bits);
    return false;
  }
  T fetch_add(T value, Order order, Where where = Where::Here()) {
    return Modify(OpKind::kFetchAdd, value, &Apply<[](T a, T b) { return static_cast<T>(a + b); }>,
                  order, where);
  }
  T fetch_sub(T value, Order order, Where where = Where::Here()) {
    return Modify(OpKind::kFetchSub, value, &Apply<[](T a, T b) { return static_cast<T>(a - b); }>,
                  order, where);
  }
  T fetch_or(T value, Order order, Where where = Where::Here()) {
    return Modify(OpKind::kFetchOr, value, &Apply<[](T a, T b) { return static_cast<T>(a | b); }>,
                  order, where);
  }
  T fetch_and(T value, Order order, Where where = Where::Here()) {
    return Modify(OpKind::kFetchAnd, value, &Apply<[](T a, T b) { return static_cast<T>(a & b); }>,
                  order, where);
  }

 private:
  template <auto kFunction>
  static uint64_t Apply(uint64_t old, uint64_t operand) {
    return internal::ToBits<T>(
        kFunction(internal::FromBits<T>(old), internal::FromBits<T>(operand)));
  }
  T Modify(OpKind kind, T value, Operation::Modify modify, Order order, Where where) {
    return internal::FromBits<T>(
        ReadModifyWrite(kind, internal::ToBits(value), modify, Orders::Modify(order), where));
  }
};

// A T that may be touched only in an order that happens-before gives. Accesses are no steps of
// their own: whether two of them race does not depend on the interleaving.
template <class T>
class ModelPlain : public internal::Location {
 public:
  ModelPlain() : Location(LocationKind::kPlain, 0), value_{} { Written(); }
  // Converts both ways without asking, as a variable of type T does.
  // NOLINTNEXTLINE(google-explicit-constructor)
  ModelPlain(T value) : Location(LocationKind::kPlain, 0), value_(std::move(value)) { Written(); }
  ModelPlain(const ModelPlain& other) : ModelPlain(T(other)) {}
  ModelPlain& operator=(const ModelPlain& other) { return *this = T(other); }
  ModelPlain& operator=(T value) {
    Written(value);
    value_ = std::move(value);
    return *this;
  }

  operator T() const {  // NOLINT(google-explicit-constructor)
    PlainRead();
    return value_;
  }
  T operator->() const requires std::is_pointer_v<T> { return T(*this); }
  ModelPlain& operator+=(const T& operand) { return *this = static_cast<T>(T(*this) + operand); }
  ModelPlain& operator-=(const T& operand) { return *this = static_cast<T>(T(*this) - operand); }
  ModelPlain& operator|=(const T& operand) { return *this = static_cast<T>(T(*this) | operand); }
  ModelPlain& operator&=(const T& operand) { return *this = static_cast<T>(T(*this) & operand); }
  ModelPlain& operator++() { return *this += T{1}; }
  ModelPlain& operator--() { return *this -= T{1}; }

 private:
  void Written() { Written(value_); }
  void Written(const T& value) {
    if constexpr (internal::kHasBits<T>) {
      PlainWrite(true, internal::ToBits(value));
    } else {
      PlainWrite(false, 0);
    }
  }

  T value_;
};

class ABSL_LOCKABLE ModelMutex : public internal::Location {
  using Where = internal::Where;

 public:
  ModelMutex() : Location(LocationKind::kMutex, 0) {}
  void Lock(Where where = Where::Here())
      ABSL_EXCLUSIVE_LOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    LockMutex(where);
  }
  bool TryLock(Where where = Where::Here())
      ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return TryLockMutex(where);
  }
  void Unlock(Where where = Where::Here()) ABSL_UNLOCK_FUNCTION() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    UnlockMutex(where);
  }
};

// A variable of the test, not of the protocol: every access is a step that sees the newest value
// and orders nothing. So after it even a seq_cst load may return what was there before; to hand
// over as a real scheduler does, use an atomic with release and acquire.
template <class T>
class Ghost : public internal::Location {
  using Where = internal::Where;

 public:
  Ghost() : Ghost(T{}) {}
  explicit Ghost(T value) : Location(LocationKind::kGhost, internal::ToBits(value)) {}
  T Get(Where where = Where::Here()) const {
    return internal::FromBits<T>(Load(OpKind::kGhostGet, std::memory_order_relaxed, where));
  }
  void Set(T value, Where where = Where::Here()) {
    Store(OpKind::kGhostSet, internal::ToBits(value), std::memory_order_relaxed, where);
  }
};

template <class Orders>
struct BasicModelAtomics {
  template <class T>
  using Atomic = ModelAtomic<T, Orders>;
  template <class T>
  using Plain = ModelPlain<T>;
  using Mutex = ModelMutex;
};
using ModelAtomics = BasicModelAtomics<AsWritten>;
// A canary: the same source as if the author had never heard of seq_cst.
using WeakenedAtomics = BasicModelAtomics<WithoutSeqCst>;

}  // namespace sched::testing

#endif  // PARKWAY_SCHED_TESTING_EXPLORER_H_
