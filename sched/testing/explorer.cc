// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/explorer.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "sched/testing/coroutine.h"

namespace sched::testing {
namespace {

using internal::Where;

constexpr int kOperationsMax = 2000;  // of one execution

[[noreturn]] void Misuse(const char* what) {
  fprintf(stderr, "sched/testing/explorer.h: %s\n", what);
  abort();
}

const char* Name(OpKind kind) {
  switch (kind) {
    case OpKind::kLoad:
      return "load";
    case OpKind::kStore:
      return "store";
    case OpKind::kExchange:
      return "exchange";
    case OpKind::kCompareExchange:
      return "compare_exchange";
    case OpKind::kCompareExchangeFailed:
      return "compare_exchange failed";
    case OpKind::kFetchAdd:
      return "fetch_add";
    case OpKind::kFetchSub:
      return "fetch_sub";
    case OpKind::kFetchOr:
      return "fetch_or";
    case OpKind::kFetchAnd:
      return "fetch_and";
    case OpKind::kLock:
      return "Lock";
    case OpKind::kTryLock:
      return "TryLock";
    case OpKind::kUnlock:
      return "Unlock";
    case OpKind::kGhostGet:
      return "Get";
    case OpKind::kGhostSet:
      return "Set";
    case OpKind::kBlockUntil:
      return "BlockUntil";
    case OpKind::kChoose:
      return "Choose";
    case OpKind::kPlainRead:
      return "read";
    case OpKind::kPlainWrite:
      return "write";
  }
  return "?";
}

const char* Name(std::memory_order order) {
  switch (order) {
    case std::memory_order_relaxed:
      return "relaxed";
    case std::memory_order_consume:
      return "consume";
    case std::memory_order_acquire:
      return "acquire";
    case std::memory_order_release:
      return "release";
    case std::memory_order_acq_rel:
      return "acq_rel";
    case std::memory_order_seq_cst:
      return "seq_cst";
  }
  return "?";
}

const char* Name(LocationKind kind) {
  switch (kind) {
    case LocationKind::kAtomic:
      return "atomic";
    case LocationKind::kPlain:
      return "plain";
    case LocationKind::kMutex:
      return "mutex";
    case LocationKind::kGhost:
      return "ghost";
  }
  return "?";
}

bool HasOrder(OpKind kind) { return kind <= OpKind::kFetchAnd; }

std::string Value(uint64_t value) {
  char text[32];
  snprintf(text, sizeof(text), value < 1'000'000 ? "%llu" : "%#llx",
           static_cast<unsigned long long>(value));
  return text;
}

std::string Place(Where where) {
  const std::string_view file = where.file;
  const size_t slash = file.rfind('/');
  return std::string(slash == file.npos ? file : file.substr(slash + 1)) + ":" +
         std::to_string(where.line);
}

// What a step does to the locations, as bit masks.
struct Access {
  uint64_t reads = 0;  // atomic: any message its view allows
  uint64_t writes = 0;
  uint64_t peeks = 0;  // the newest value
  uint64_t mutexes = 0;
  uint64_t try_locks = 0;
  uint64_t unlocks = 0;

  void Add(const Access& other) {
    reads |= other.reads;
    writes |= other.writes;
    peeks |= other.peeks;
    mutexes |= other.mutexes;
    try_locks |= other.try_locks;
    unlocks |= other.unlocks;
  }
  bool operator==(const Access&) const = default;
};

// Might `later`, had it been stepped before `earlier`, have changed what `earlier` can do? A load
// must see whether the store comes first; but a store need not be tried before a load or store that
// was stepped first: that load may still return the older value, that store still find its place
// behind it.
bool MustReverse(const Access& earlier, const Access& later) {
  return ((earlier.reads | earlier.peeks) & later.writes) != 0 ||
         (earlier.writes & later.peeks) != 0 || (earlier.try_locks & later.unlocks) != 0 ||
         (earlier.unlocks & later.try_locks) != 0;
}

// Must `earlier` come first in each execution with the same results? (Besides reads-from.)
bool MustPrecede(const Access& earlier, const Access& later) {
  return (earlier.peeks & later.writes) != 0 || (earlier.writes & later.peeks) != 0 ||
         (earlier.mutexes & later.mutexes) != 0;
}

using Footprint = std::array<Access, kThreadsMax>;
using Clock = std::array<uint16_t, kThreadsMax>;

// Per thread: kAwake, or how many of the newest messages its step is still to be tried with.
constexpr int8_t kAwake = -1;
using Sleep = std::array<int8_t, kThreadsMax>;

// Does `a` leave at least as much to explore as `b`?
bool Covers(const Sleep& a, const Sleep& b) {
  for (int t = 0; t < kThreadsMax; ++t) {
    if (a[t] != kAwake && (b[t] == kAwake || b[t] > a[t])) return false;
  }
  return true;
}

struct HashOfState {
  size_t operator()(const StateHash& hash) const { return hash.low(); }
};

// What a virtual thread is about to do.
struct Request {
  Operation op;
  Where where;
  const std::function<bool()>* condition = nullptr;  // kBlockUntil
  int choices = 0;                                   // kChoose
};

// Unwinds a virtual thread whose execution is given up.
struct GivenUp {};

}  // namespace

// Depth-first search over the decisions "which thread, with which of the results that the memory
// allows", each execution replaying the scenario up to the newest decision. Two reductions:
//
// Merging. A state in which the memory, and the results that each thread has got so far, are the
// same as in a state whose future has been explored, has the same future.
//
// Partial order. Executions with the same results differ only in the order of steps that do not
// matter to each other; one of them is enough. (Flanagan and Godefroid, "Dynamic partial-order
// reduction"; the summaries of Yang et al., "Efficient stateful dynamic partial order reduction";
// sleep sets of Godefroid.) Since a store may be placed, and a load may read, behind what was
// stepped before, only "reads from" and the blocking operations force an order.
//
// - In a state one thread is tried first, with all results. Another one is tried there only if
//   somewhere in the future so explored a thread is about to do what might have changed that first
//   step, had it come before (MustReverse), and is not bound to come after it.
//   Why that is enough: take an execution that begins with no thread tried. Let t be the first step
//   of some thread tried, and e the first one in the execution that t depends on. What precedes e
//   can as well happen after t (t reading the newest value), so it was explored, e was met there,
//   and as a consequence a thread was tried whose first step is e or something before e. That step
//   again depends on something earlier still, or can be moved to the front.
// - Once a thread was tried in a state, it sleeps in the futures of those tried after it, until a
//   step matters to it. A new message wakes it to read just that: the older ones were tried.
class Explorer {
 public:
  Explorer(const std::function<void(Exploration&)>& scenario, const ExploreOptions& options);
  ~Explorer();

  ExploreResult Run();

  static Explorer* current;

  // The operations of the running virtual thread, or of the set-up and the checks.
  Effect Step(Request request);
  int Create(LocationKind kind, uint64_t value, uint64_t* execution);
  void Destroy(const internal::Location& location);
  void PlainRead(const internal::Location& location);
  void PlainWrite(const internal::Location& location, bool exact, uint64_t bits);
  void Expect(bool condition, const char* what, Where where);
  void RememberOnly(std::initializer_list<Remembered> values, Where where);
  [[noreturn]] void FailAndUnwind(const std::string& what);
  bool IsInThread() const { return running_ != kNoThread && !given_up_ && !peeking_; }
  void AddBlock(const void* begin, size_t bytes) { memory_.AddBlock(begin, bytes); }
  void SetLabel(const internal::Location& location, const char* label);
  int IdOf(const internal::Location& location) const;

 private:
  enum class Phase { kSetUp, kStart, kRun, kEnd, kOver };

  struct VirtualThread {
    const Exploration::Body* body = nullptr;
    bool started = false;
    bool finished = false;
    const Request* request = nullptr;
    StateHash results;
    int operations = 0;
    int locks_held = 0;
    int forgotten = 0;  // how often
    int last_step = 0;
  };

  // A state on the path that is being explored, and the step taken from it.
  struct Node {
    StateHash key;
    unsigned enabled = 0;      // }
    unsigned to_try = 0;       // } threads, as masks
    unsigned tried = 0;        // }
    int thread = kNoThread;    // the step taken: its thread,
    int outcome = 0;           // which of its results,
    int outcomes = 0;          // out of how many; 0: not known yet
    int previous = kNoThread;  // the thread that ran last
    int preemptions = 0;
    Footprint pending;  // what each thread is about to do
    Footprint future;   // what each may do from here on, as far as explored
    Clock clock{};      // of the step taken: the newest step of each thread that precedes it
    Sleep sleep;        // see Explorer
    OpKind kind = OpKind::kLoad;
    int location = -1;
  };

  struct TraceLine {
    int thread;
    OpKind kind;
    int location;
    std::memory_order order;
    Effect effect;
    uint64_t expected;
    Where where;
  };

  void Execute();
  void ThreadMain(int thread);
  void Resume(int thread);
  int Decide();
  bool PushNode();
  bool Backtrack();
  void PopNode();
  void TryEarlier(int thread, const Access& access);
  unsigned FirstAfter(size_t i, int thread) const;
  void UpdateSleep(const Effect& effect);
  Access AccessOf(const Request& request);
  bool IsEnabled(const Request& request);
  bool Holds(const std::function<bool()>& condition, uint64_t* peeked);
  Effect Perform(const Request& request);
  Effect PerformOutsideThreads(const Request& request);
  void MixResult(VirtualThread* self, const Request& request, const Effect& effect);
  void NoteStep(const Request& request, const Effect& effect);
  void NoteSite(OpKind kind, std::memory_order order, const Request& request);
  void ApplyWeakening(Request* request);
  Site SiteOf(OpKind kind, std::memory_order order, const Request& request) const;
  unsigned Unfinished() const;
  StateHash Results() const {
    return running_ == kNoThread ? StateHash() : threads_[running_].results;
  }
  void Fail(const std::string& what);
  std::string Object(int location) const;
  std::string Describe(const TraceLine& line) const;
  std::string ThreadName(int thread) const;
  uint32_t Intern(const Footprint& footprint);

  const std::function<void(Exploration&)>& scenario_;
  const ExploreOptions& options_;
  const bool reduce_orders_;
  ExploreResult result_;

  MemoryModel memory_;
  std::vector<Node> path_;
  struct Explored {
    Sleep sleep;
    uint32_t future;  // in footprints_
  };
  std::unordered_multimap<StateHash, Explored, HashOfState> explored_;
  std::vector<Footprint> footprints_;
  std::unordered_map<StateHash, uint32_t, HashOfState> footprint_ids_;

  // One execution.
  uint64_t execution_ = 0;
  Phase phase_ = Phase::kOver;
  bool given_up_ = false;
  bool finished_ = false;  // all threads have, in a state not seen before
  Exploration* exploration_ = nullptr;
  std::array<VirtualThread, kThreadsMax> threads_;
  int thread_count_ = 0;
  int running_ = kNoThread;
  int outcome_ = 0;
  size_t depth_ = 0;  // steps decided
  Sleep next_sleep_{};
  bool peeking_ = false;
  uint64_t peeked_ = 0;
  std::array<const char*, kLocationsMax> labels_{};
  std::vector<TraceLine> trace_;

  Coroutine main_;
  std::vector<std::unique_ptr<Coroutine>> coroutines_;
};

Explorer* Explorer::current = nullptr;

Explorer::Explorer(const std::function<void(Exploration&)>& scenario, const ExploreOptions& options)
    : scenario_(scenario),
      options_(options),
      reduce_orders_(options.reduce_orders && options.preemption_bound < 0) {
  if (current != nullptr) Misuse("explorations do not nest");
  current = this;
}

Explorer::~Explorer() { current = nullptr; }

ExploreResult Explorer::Run() {
  result_.bounded = options_.preemption_bound >= 0;
  do {
    if (result_.executions == options_.executions_max) return std::move(result_);
    Execute();
  } while (result_.ok && Backtrack());
  result_.complete = true;
  return std::move(result_);
}

// --- One execution

void Explorer::Execute() {
  static uint64_t executions = 0;  // of all explorations: an object may outlive its own
  execution_ = ++executions;
  ++result_.executions;
  memory_.Reset();
  labels_.fill(nullptr);
  trace_.clear();
  given_up_ = false;
  finished_ = false;
  depth_ = 0;
  running_ = kNoThread;
  thread_count_ = 0;

  phase_ = Phase::kSetUp;
  Exploration exploration;
  exploration_ = &exploration;
  scenario_(exploration);
  thread_count_ = static_cast<int>(exploration.threads_.size());
  if (thread_count_ > kThreadsMax) Misuse("too many threads");
  while (static_cast<int>(coroutines_.size()) < thread_count_) {
    const int thread = static_cast<int>(coroutines_.size());
    coroutines_.push_back(std::make_unique<Coroutine>([this, thread] { ThreadMain(thread); }));
  }
  for (int t = 0; t < thread_count_; ++t) {
    threads_[t] = VirtualThread();
    threads_[t].body = &exploration.threads_[t];
  }
  memory_.StartThreads(thread_count_);

  // Each thread runs up to its first operation; what it does before is its own affair.
  phase_ = Phase::kStart;
  for (int t = 0; t < thread_count_ && !given_up_; ++t) {
    threads_[t].started = true;
    Resume(t);
  }
  phase_ = Phase::kRun;
  if (!given_up_) {
    const int first = Decide();
    if (first != kNoThread) Resume(first);
  }
  running_ = kNoThread;

  if (finished_ && !given_up_) {
    phase_ = Phase::kEnd;
    try {
      for (const auto& check : exploration.checks_) check();
    } catch (const GivenUp&) {
    }
    phase_ = Phase::kRun;
  }
  given_up_ = true;
  for (int t = 0; t < thread_count_; ++t) {
    if (threads_[t].started && !threads_[t].finished) Resume(t);
  }
  running_ = kNoThread;
  phase_ = Phase::kOver;
  exploration_ = nullptr;
}

// Runs the thread until control comes back to the set-up's stack: when all have finished, or the
// execution is given up.
void Explorer::Resume(int thread) {
  running_ = thread;
  Coroutine::Switch(main_, *coroutines_[thread]);
}

void Explorer::ThreadMain(int thread) {
  for (;;) {  // once per execution
    try {
      threads_[thread].body->run();
    } catch (const GivenUp&) {
    }
    threads_[thread].finished = true;
    int next = kNoThread;
    if (phase_ == Phase::kRun && !given_up_) next = Decide();
    running_ = next;
    Coroutine::Switch(*coroutines_[thread], next == kNoThread ? main_ : *coroutines_[next]);
  }
}

// Called by a virtual thread about to do something that others may notice.
Effect Explorer::Step(Request request) {
  if (phase_ == Phase::kOver) return Effect();
  if (peeking_) {
    const OpKind kind = request.op.kind;
    if (kind != OpKind::kLoad && kind != OpKind::kGhostGet) {
      Misuse("a BlockUntil condition may only read");
    }
    peeked_ |= uint64_t{1} << request.op.location;
    Effect effect;
    effect.read = memory_.Latest(request.op.location);
    return effect;
  }
  if (running_ == kNoThread) return PerformOutsideThreads(request);

  VirtualThread& self = threads_[running_];
  const int me = running_;
  // A lock is also released by a destructor, which must not throw: there its thread goes on to its
  // next operation.
  const auto unwind = [&] {
    if (request.op.kind != OpKind::kUnlock && std::uncaught_exceptions() == 0) throw GivenUp();
    Effect nothing;
    if (request.op.location >= 0) nothing.read = memory_.Latest(request.op.location);
    return nothing;
  };
  if (given_up_) return unwind();
  if (options_.weaken) ApplyWeakening(&request);
  if (request.op.location >= 0 && !memory_.KnowsConstruction(me, request.op.location)) {
    FailAndUnwind("data race: " + Object(request.op.location) + " is used by " + ThreadName(me) +
                  " before its construction is known there, or after its destruction");
  }
  self.request = &request;
  const int next = phase_ == Phase::kStart ? kNoThread : Decide();
  if (next != me) {
    running_ = next;
    Coroutine::Switch(*coroutines_[me], next == kNoThread ? main_ : *coroutines_[next]);
  }
  self.request = nullptr;
  if (given_up_) return unwind();
  return Perform(request);
}

Effect Explorer::Perform(const Request& request) {
  VirtualThread& self = threads_[running_];
  const Operation& op = request.op;
  const int step = static_cast<int>(depth_);
  Effect effect;
  switch (op.kind) {
    case OpKind::kLock:
      memory_.Lock(running_, op.location);
      ++self.locks_held;
      break;
    case OpKind::kTryLock:
      effect.wrote = memory_.holder(op.location) == kNoThread;
      if (!effect.wrote) break;
      memory_.Lock(running_, op.location);
      ++self.locks_held;
      break;
    case OpKind::kUnlock:
      if (memory_.holder(op.location) != running_) {
        Fail(ThreadName(running_) + " unlocks " + Object(op.location) + ", which it does not hold");
        return effect;
      }
      memory_.Unlock(running_, op.location, self.results);
      --self.locks_held;
      break;
    case OpKind::kGhostGet:
      effect.read = memory_.Latest(op.location);
      break;
    case OpKind::kGhostSet:
      memory_.SetLatest(op.location, op.operand);
      effect.written = op.operand;
      effect.wrote = true;
      break;
    case OpKind::kBlockUntil: {
      uint64_t peeked = 0;
      Holds(*request.condition, &peeked);
      for (int id = 0; id < kLocationsMax; ++id) {
        if ((peeked >> id & 1) != 0) memory_.SeeLatest(running_, id);
      }
      break;
    }
    case OpKind::kChoose:
      effect.read = static_cast<uint64_t>(outcome_);
      break;
    default:
      effect = memory_.Perform(running_, op, outcome_, step);
      break;
  }
  MixResult(&self, request, effect);
  NoteStep(request, effect);
  ++self.operations;
  self.last_step = step;
  return effect;
}

// Whatever the thread can learn from a step goes into its results: its local state follows from
// them.
void Explorer::MixResult(VirtualThread* self, const Request& request, const Effect& effect) {
  StateHash& results = self->results;
  results.Mix(static_cast<uint64_t>(request.op.kind));
  results.Mix(memory_.Name(running_, results, effect.read));
  results.Mix(memory_.Name(running_, results, effect.written));
  results.Mix(effect.wrote ? 1 : 0);
  // A lock's holder may read what earlier holders left in ordinary variables.
  if (request.op.kind == OpKind::kLock || (request.op.kind == OpKind::kTryLock && effect.wrote)) {
    results.Mix(memory_.sections(request.op.location));
  }
}

void Explorer::NoteStep(const Request& request, const Effect& effect) {
  const Operation& op = request.op;
  const bool failed = op.kind == OpKind::kCompareExchange && !effect.wrote;
  const OpKind kind = failed ? OpKind::kCompareExchangeFailed : op.kind;
  const std::memory_order order = failed ? op.failed_order : op.order;
  trace_.push_back({running_, kind, op.location, order, effect, op.expected, request.where});
  if (depth_ < path_.size()) return;  // a replay

  if (HasOrder(kind)) NoteSite(kind, order, request);
  result_.longest = std::max(result_.longest, static_cast<int>(depth_));
  Node& node = path_[depth_ - 1];
  node.clock.fill(0);
  const auto join = [&](int step) {
    if (step == 0) return;
    const Node& other = path_[step - 1];
    for (int t = 0; t < kThreadsMax; ++t) node.clock[t] = std::max(node.clock[t], other.clock[t]);
  };
  join(threads_[running_].last_step);
  join(effect.read_from_step);
  const Access& mine = node.pending[running_];
  for (size_t i = 0; i + 1 < depth_; ++i) {
    if (MustPrecede(path_[i].pending[path_[i].thread], mine)) join(static_cast<int>(i + 1));
  }
  node.clock[running_] = static_cast<uint16_t>(depth_);
  UpdateSleep(effect);
}

// The state that the newest step leads to inherits who sleeps.
void Explorer::UpdateSleep(const Effect& effect) {
  const Node& node = path_[depth_ - 1];
  next_sleep_.fill(kAwake);
  if (!reduce_orders_) return;
  const Access& mine = node.pending[running_];
  for (int t = 0; t < thread_count_; ++t) {
    if (t == running_ || threads_[t].finished) continue;
    int8_t sleep = (node.tried >> t & 1) != 0 ? int8_t{0} : node.sleep[t];
    if (sleep == kAwake) continue;
    const Access& other = node.pending[t];
    if (MustPrecede(mine, other) || MustPrecede(other, mine)) continue;
    if (effect.wrote && (mine.writes & other.reads) != 0) {
      // It may read the new message. Not the newest one: rather wake up entirely than keep track of
      // which.
      if (effect.newer != 0) continue;
      ++sleep;
    }
    next_sleep_[t] = sleep;
  }
}

Effect Explorer::PerformOutsideThreads(const Request& request) {
  const Operation& op = request.op;
  if (given_up_) return Effect();  // a failed check has left; objects are being destroyed
  Effect effect;
  switch (op.kind) {
    case OpKind::kLoad:
    case OpKind::kGhostGet:
      effect.read = memory_.Latest(op.location);
      return effect;
    case OpKind::kStore:
    case OpKind::kGhostSet:
      memory_.Name(kNoThread, StateHash(), op.operand);
      memory_.SetLatest(op.location, op.operand);
      return effect;
    case OpKind::kLock:
    case OpKind::kTryLock:
      if (memory_.holder(op.location) != kNoThread) {
        if (op.kind == OpKind::kLock) {
          FailAndUnwind(Object(op.location) + " is still held at the end");
        }
        return effect;
      }
      effect.wrote = true;
      return effect;
    case OpKind::kUnlock:
      return effect;
    case OpKind::kBlockUntil:
    case OpKind::kChoose:
      Misuse("BlockUntil and Choose are for virtual threads");
    default:
      break;
  }
  effect.read = memory_.Latest(op.location);
  if (op.kind == OpKind::kCompareExchange && effect.read != op.expected) return effect;
  effect.wrote = true;
  const uint64_t value = op.modify == nullptr ? op.operand : op.modify(effect.read, op.operand);
  memory_.Name(kNoThread, StateHash(), value);
  memory_.SetLatest(op.location, value);
  return effect;
}

bool Explorer::Holds(const std::function<bool()>& condition, uint64_t* peeked) {
  peeking_ = true;
  peeked_ = 0;
  const bool holds = condition();
  peeking_ = false;
  *peeked |= peeked_;
  return holds;
}

// --- Locations

int Explorer::Create(LocationKind kind, uint64_t value, uint64_t* execution) {
  if (phase_ == Phase::kOver || peeking_)
    Misuse("a shared object is constructed outside of the scenario");
  *execution = execution_;
  int id = -1;
  if (!memory_.Create(kind, running_, value, &id)) Misuse("too many locations (kLocationsMax)");
  memory_.Name(running_, Results(), value);
  labels_[id] = nullptr;
  return id;
}

void Explorer::Destroy(const internal::Location& location) {
  if (location.execution_ == execution_ && phase_ != Phase::kOver) memory_.Destroy(location.id_);
}

int Explorer::IdOf(const internal::Location& location) const {
  if (location.execution_ != execution_) {
    Misuse("an object of an earlier execution is used: the scenario must build all of them anew");
  }
  return location.id_;
}

void Explorer::SetLabel(const internal::Location& location, const char* label) {
  labels_[IdOf(location)] = label;
}

void Explorer::PlainRead(const internal::Location& location) {
  if (given_up_ || phase_ == Phase::kOver) return;
  const int id = IdOf(location);
  if (peeking_) Misuse("a BlockUntil condition reads a Plain; it may read atomics and Ghosts");
  if (running_ == kNoThread) return;
  Effect effect;
  effect.read = memory_.PlainValue(id);
  trace_.push_back({running_, OpKind::kPlainRead, id, std::memory_order_relaxed, effect, 0, {}});
  int other = kNoThread;
  if (!memory_.PlainRead(running_, id, &other)) {
    FailAndUnwind("data race: " + ThreadName(running_) + " reads " + Object(id) +
                  ", and nothing orders that after the write by " + ThreadName(other));
  }
  threads_[running_].results.Mix(memory_.PlainValue(id));
}

void Explorer::PlainWrite(const internal::Location& location, bool exact, uint64_t bits) {
  if (given_up_ || phase_ == Phase::kOver) return;
  const int id = IdOf(location);
  uint64_t value = 0;
  if (exact) {
    value = memory_.Name(running_, Results(), bits);
  } else if (running_ != kNoThread) {
    StateHash what = Results();  // it follows from that
    what.Mix(static_cast<uint64_t>(running_));
    value = what.low();
  }
  int other = kNoThread;
  if (running_ != kNoThread) {
    Effect effect;
    effect.written = exact ? bits : value;
    trace_.push_back({running_, OpKind::kPlainWrite, id, std::memory_order_relaxed, effect, 0, {}});
  }
  if (!memory_.PlainWrite(running_, id, value, &other)) {
    FailAndUnwind("data race: " + ThreadName(running_) + " writes " + Object(id) +
                  ", and nothing orders that after the access by " + ThreadName(other));
  }
  if (running_ != kNoThread) threads_[running_].results.Mix(value);
}

// --- The search

// Returns the thread to go on with, and leaves in outcome_ with which result; kNoThread if this
// execution ends here.
int Explorer::Decide() {
  if (depth_ == path_.size() && !PushNode()) return kNoThread;
  Node& node = path_[depth_];
  const Request* request = threads_[node.thread].request;
  const bool is_new = node.outcomes == 0;
  if (is_new && request != nullptr) {
    node.kind = request->op.kind;
    node.location = request->op.location;
    if (node.kind == OpKind::kChoose) {
      node.outcomes = request->choices;
    } else if (HasOrder(node.kind)) {
      const int8_t newest = node.sleep[node.thread];
      node.outcomes =
          memory_.Outcomes(node.thread, request->op, newest == kAwake ? INT_MAX : newest);
    } else {
      node.outcomes = 1;
    }
  }
  if (request == nullptr || request->op.kind != node.kind ||
      request->op.location != node.location) {
    Fail("the scenario is not deterministic: " + ThreadName(node.thread) +
         " does something else than it did in the same situation before");
    return kNoThread;
  }
  ++depth_;
  outcome_ = node.outcome;
  return node.thread;
}

unsigned Explorer::Unfinished() const {
  unsigned mask = 0;
  for (int t = 0; t < thread_count_; ++t) mask |= threads_[t].finished ? 0u : 1u << t;
  return mask;
}

// Looks at the state that was reached. False if there is nothing to do from here.
bool Explorer::PushNode() {
  const unsigned unfinished = Unfinished();
  Node node;
  node.sleep.fill(kAwake);
  if (depth_ > 0) {
    const Node& last = path_.back();
    node.sleep = next_sleep_;
    node.previous = last.kind == OpKind::kChoose ? last.previous : last.thread;
    const bool interrupted = last.previous != kNoThread && last.previous != last.thread &&
                             (last.enabled >> last.previous & 1) != 0 &&
                             last.kind != OpKind::kChoose;
    node.preemptions = last.preemptions + (interrupted ? 1 : 0);
  }
  memory_.Hash(unfinished, &node.key);
  for (int t = 0; t < thread_count_; ++t) {
    // What a finished thread got is of interest only to the checks at the end.
    const bool is_over = threads_[t].finished && exploration_->checks_.empty();
    node.key.Mix(is_over ? StateHash() : threads_[t].results);
  }
  if (result_.bounded) {
    node.key.Mix(static_cast<uint64_t>(node.previous) + 1);
    node.key.Mix(static_cast<uint64_t>(node.preemptions));
  }
  if (options_.merge_states) {
    const auto [first, last] = explored_.equal_range(node.key);
    if (first == last) ++result_.states;
    for (auto seen = first; seen != last; ++seen) {
      if (!Covers(seen->second.sleep, node.sleep)) continue;
      const Footprint& future = footprints_[seen->second.future];
      if (!path_.empty()) {
        for (int t = 0; t < thread_count_; ++t) path_.back().future[t].Add(future[t]);
      }
      for (int t = 0; t < thread_count_; ++t) TryEarlier(t, future[t]);
      return false;
    }
  } else {
    ++result_.states;
  }
  if (unfinished == 0) {
    finished_ = true;
    if (options_.merge_states)
      explored_.emplace(node.key, Explored{node.sleep, Intern(Footprint())});
    return false;
  }
  if (depth_ == kOperationsMax) {
    Fail("an execution does not end: does a thread spin? Let it BlockUntil");
    return false;
  }

  int choosing = kNoThread;
  unsigned able = 0;
  for (int t = 0; t < thread_count_; ++t) {
    if (threads_[t].finished) continue;
    const Request& request = *threads_[t].request;
    node.pending[t] = AccessOf(request);
    node.future[t] = node.pending[t];
    if (IsEnabled(request)) {
      able |= 1u << t;
      if (node.sleep[t] != 0) node.enabled |= 1u << t;
    }
    if (request.op.kind == OpKind::kChoose) choosing = t;
    TryEarlier(t, node.pending[t]);
  }
  if (able == 0) {
    Fail("deadlock: no thread can go on (a lost wake-up?)");
    return false;
  }

  if (node.enabled == 0) {
    // All that can happen was explored elsewhere; but what is pending here counts.
    if (!path_.empty()) {
      for (int t = 0; t < thread_count_; ++t) path_.back().future[t].Add(node.future[t]);
    }
    return false;
  }

  if (choosing != kNoThread && (node.enabled >> choosing & 1) != 0) {
    node.to_try = 1u << choosing;  // concerns nobody else
  } else if (reduce_orders_) {
    const bool goes_on = node.previous != kNoThread && (node.enabled >> node.previous & 1) != 0;
    node.to_try = goes_on ? 1u << node.previous : node.enabled & -node.enabled;
  } else {
    node.to_try = node.enabled;
    const bool could_go_on = node.previous != kNoThread && (node.enabled >> node.previous & 1) != 0;
    if (result_.bounded && could_go_on && node.preemptions >= options_.preemption_bound) {
      node.to_try = 1u << node.previous;
    }
  }
  const bool continues = node.previous != kNoThread && (node.to_try >> node.previous & 1) != 0;
  node.thread = continues ? node.previous : __builtin_ctz(node.to_try);
  path_.push_back(node);
  return true;
}

// `thread` is, or in a future explored before will be, about to do `access`. See the class.
void Explorer::TryEarlier(int thread, const Access& access) {
  if (!reduce_orders_) return;
  const int last = threads_[thread].last_step;
  for (size_t i = 0; i < depth_; ++i) {
    Node& node = path_[i];
    if (node.thread == thread || !MustReverse(node.pending[node.thread], access)) continue;
    if (last != 0 && path_[last - 1].clock[node.thread] > i) continue;  // precedes it anyway
    const unsigned first = FirstAfter(i, thread);
    if ((first & node.to_try) != 0) continue;
    const unsigned one = first & -first;
    node.to_try |= (node.enabled & one) != 0 ? one : node.enabled;
  }
}

// The threads with which one can begin, in the state before step `i`, on the way to the point where
// `thread` is now, without that step: of the later steps that precede that point, those that none
// of the others precedes.
unsigned Explorer::FirstAfter(size_t i, int thread) const {
  const int last = threads_[thread].last_step;
  if (last <= static_cast<int>(i) + 1) return 1u << thread;
  const Clock& clock = path_[last - 1].clock;
  unsigned first = 0;
  unsigned met = 0;
  for (size_t j = i + 1; j < depth_; ++j) {
    const Node& node = path_[j];
    const unsigned bit = 1u << node.thread;
    if (clock[node.thread] <= j || (met & bit) != 0) continue;
    bool is_first = true;
    for (int t = 0; t < thread_count_; ++t) {
      if ((met >> t & 1) != 0 && node.clock[t] > i + 1) is_first = false;
    }
    met |= bit;
    if (is_first) first |= bit;
  }
  return first;
}

// Moves the end of the path on to the next decision. False when all are done.
bool Explorer::Backtrack() {
  while (!path_.empty()) {
    Node& node = path_.back();
    if (node.outcomes != 0 && ++node.outcome < node.outcomes) return true;
    node.tried |= 1u << node.thread;
    const unsigned left = node.to_try & ~node.tried;
    if (left != 0) {
      node.thread = __builtin_ctz(left);
      node.outcome = 0;
      node.outcomes = 0;
      return true;
    }
    PopNode();
  }
  return false;
}

void Explorer::PopNode() {
  const Node node = path_.back();
  path_.pop_back();
  if (options_.merge_states) explored_.emplace(node.key, Explored{node.sleep, Intern(node.future)});
  if (path_.empty()) return;
  for (int t = 0; t < kThreadsMax; ++t) path_.back().future[t].Add(node.future[t]);
}

uint32_t Explorer::Intern(const Footprint& footprint) {
  StateHash hash;
  for (const Access& access : footprint) {
    hash.Mix(access.reads);
    hash.Mix(access.writes);
    hash.Mix(access.peeks);
    hash.Mix(access.mutexes);
    hash.Mix(access.try_locks);
    hash.Mix(access.unlocks);
  }
  const auto [it, is_new] = footprint_ids_.emplace(hash, static_cast<uint32_t>(footprints_.size()));
  if (is_new) footprints_.push_back(footprint);
  return it->second;
}

Access Explorer::AccessOf(const Request& request) {
  const uint64_t bit = request.op.location < 0 ? 0 : uint64_t{1} << request.op.location;
  Access access;
  switch (request.op.kind) {
    case OpKind::kLoad:
      access.reads = bit;
      break;
    case OpKind::kStore:
      access.writes = bit;
      break;
    case OpKind::kLock:
      access.writes = access.peeks = access.mutexes = bit;
      break;
    case OpKind::kTryLock:
      access.writes = access.peeks = access.mutexes = access.try_locks = bit;
      break;
    case OpKind::kUnlock:
      access.mutexes = access.unlocks = bit;
      break;
    case OpKind::kGhostGet:
      access.peeks = bit;
      break;
    case OpKind::kGhostSet:
      access.writes = access.peeks = bit;
      break;
    case OpKind::kBlockUntil:
      if (!Holds(*request.condition, &access.peeks) && access.peeks == 0) {
        Misuse("a BlockUntil condition reads no atomic and no Ghost: nothing could wake it");
      }
      break;
    case OpKind::kChoose:
      break;
    default:
      access.reads = access.writes = bit;
      break;
  }
  return access;
}

bool Explorer::IsEnabled(const Request& request) {
  if (request.op.kind == OpKind::kLock) return memory_.holder(request.op.location) == kNoThread;
  uint64_t peeked = 0;
  return request.op.kind != OpKind::kBlockUntil || Holds(*request.condition, &peeked);
}

// --- Sites

void Explorer::ApplyWeakening(Request* request) {
  Operation& op = request->op;
  if (!HasOrder(op.kind)) return;
  if (op.kind == OpKind::kCompareExchange) {
    op.failed_order =
        options_.weaken(SiteOf(OpKind::kCompareExchangeFailed, op.failed_order, *request));
  }
  op.order = options_.weaken(SiteOf(op.kind, op.order, *request));
}

Site Explorer::SiteOf(OpKind kind, std::memory_order order, const Request& request) const {
  Site site;
  site.file = request.where.file;
  site.line = request.where.line;
  site.kind = kind;
  site.order = order;
  site.object = Object(request.op.location);
  site.location = memory_.ordinal(request.op.location);
  site.thread = ThreadName(running_);
  site.operation_index = threads_[running_].operations;
  return site;
}

void Explorer::NoteSite(OpKind kind, std::memory_order order, const Request& request) {
  for (const Site& site : result_.sites) {
    if (site.line == request.where.line && site.kind == kind && site.order == order &&
        std::strcmp(site.file, request.where.file) == 0) {
      return;
    }
  }
  result_.sites.push_back(SiteOf(kind, order, request));
}

// --- Failures

void Explorer::Expect(bool condition, const char* what, Where where) {
  if (condition || given_up_ || phase_ == Phase::kOver) return;
  const std::string text = std::string(what) + " (" + Place(where) + ")";
  FailAndUnwind((running_ == kNoThread ? "at the end" : ThreadName(running_)) + (": " + text));
}

void Explorer::RememberOnly(std::initializer_list<Remembered> values, Where where) {
  if (!IsInThread()) return;
  VirtualThread& self = threads_[running_];
  // Ordinary data behind a lock follows from the results that its holders had.
  if (self.locks_held != 0) Misuse("RememberOnly is called with a mutex held");
  StateHash results;
  for (const char* c = where.file; *c != 0; ++c) results.Mix(static_cast<uint64_t>(*c));
  results.Mix(static_cast<uint64_t>(where.line));
  results.Mix(static_cast<uint64_t>(++self.forgotten));
  for (const Remembered& value : values) {
    results.Mix(memory_.Name(running_, self.results, value.bits));
  }
  self.results = results;
}

void Explorer::Fail(const std::string& what) {
  given_up_ = true;
  if (!result_.ok) return;
  result_.ok = false;
  std::string& text = result_.failure;
  text = what + "\n";
  for (const TraceLine& line : trace_) text += Describe(line);
  for (int t = 0; t < thread_count_; ++t) {
    const Request* request = threads_[t].request;
    if (threads_[t].finished || request == nullptr || t == running_) continue;
    text += "  " + ThreadName(t) + " is before: " + Name(request->op.kind);
    if (request->op.location >= 0) text += " " + Object(request->op.location);
    text += "  " + Place(request->where) + "\n";
  }
}

void Explorer::FailAndUnwind(const std::string& what) {
  Fail(what);
  throw GivenUp();
}

std::string Explorer::ThreadName(int thread) const {
  return thread == kNoThread ? "the set-up" : exploration_->threads_[thread].name;
}

std::string Explorer::Object(int location) const {
  if (labels_[location] != nullptr) return labels_[location];
  std::string name = Name(memory_.kind(location));
  name += "#" + std::to_string(memory_.ordinal(location));
  if (memory_.owner(location) != kNoThread) name += " of " + ThreadName(memory_.owner(location));
  return name;
}

std::string Explorer::Describe(const TraceLine& line) const {
  char head[64];
  snprintf(head, sizeof(head), "  %-12s ", ThreadName(line.thread).c_str());
  std::string text = head;
  if (line.location >= 0) text += Object(line.location) + ".";
  text += Name(line.kind);
  const Effect& effect = line.effect;
  if (HasOrder(line.kind)) text += std::string("(") + Name(line.order) + ")";
  switch (line.kind) {
    case OpKind::kLoad:
    case OpKind::kGhostGet:
    case OpKind::kChoose:
    case OpKind::kPlainRead:
      text += " = " + Value(effect.read);
      break;
    case OpKind::kStore:
    case OpKind::kGhostSet:
    case OpKind::kPlainWrite:
      text += " <- " + Value(effect.written);
      break;
    case OpKind::kCompareExchangeFailed:
      text += ": " + Value(effect.read) + ", not " + Value(line.expected);
      break;
    case OpKind::kTryLock:
      text += effect.wrote ? " = true" : " = false";
      break;
    case OpKind::kLock:
    case OpKind::kUnlock:
    case OpKind::kBlockUntil:
      break;
    default:
      text += ": " + Value(effect.read) + " -> " + Value(effect.written);
      break;
  }
  if (effect.newer > 0) text += "  [" + std::to_string(effect.newer) + " newer]";
  if (line.where.file != nullptr) text += "   " + Place(line.where);
  return text + "\n";
}

// --- The interface

void Exploration::Thread(std::string name, std::function<void()> body) {
  threads_.push_back({std::move(name), std::move(body)});
}

void Exploration::AtEnd(std::function<void()> check) { checks_.push_back(std::move(check)); }

ExploreResult Explore(const std::function<void(Exploration&)>& scenario,
                      const ExploreOptions& options) {
  return Explorer(scenario, options).Run();
}

namespace {

// The strongest first.
std::vector<std::memory_order> WeakerOrders(OpKind kind, std::memory_order order,
                                            bool below_seq_cst) {
  const bool loads = kind == OpKind::kLoad || kind == OpKind::kCompareExchangeFailed;
  const bool stores = kind == OpKind::kStore;
  std::vector<std::memory_order> weaker;
  if (order == std::memory_order_seq_cst) {
    weaker.push_back(loads    ? std::memory_order_acquire
                     : stores ? std::memory_order_release
                              : std::memory_order_acq_rel);
  }
  if (!below_seq_cst || order == std::memory_order_relaxed) return weaker;
  const bool both = order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
  if (both && !loads && !stores) {
    weaker.push_back(std::memory_order_acquire);
    weaker.push_back(std::memory_order_release);
  }
  weaker.push_back(std::memory_order_relaxed);
  return weaker;
}

bool IsSameSite(const Site& a, const Site& b) {
  return a.line == b.line && a.kind == b.kind && a.order == b.order &&
         std::strcmp(a.file, b.file) == 0;
}

}  // namespace

std::vector<Weakening> ExploreWeakenings(const std::function<void(Exploration&)>& scenario,
                                         bool below_seq_cst, const ExploreOptions& options) {
  const ExploreResult as_written = Explore(scenario, options);
  if (!as_written.ok || !as_written.complete) {
    fprintf(stderr, "%s\n", ToString(as_written).c_str());
    Misuse("only a scenario that passes can be weakened");
  }
  std::vector<Weakening> weakenings;
  for (const Site& site : as_written.sites) {
    if (site.order != std::memory_order_seq_cst && !below_seq_cst) continue;
    for (const std::memory_order order : WeakerOrders(site.kind, site.order, below_seq_cst)) {
      ExploreOptions weaker = options;
      weaker.weaken = [&](const Site& access) {
        if (IsSameSite(access, site)) return order;
        return options.weaken ? options.weaken(access) : access.order;
      };
      weakenings.push_back({site, order, Explore(scenario, weaker)});
    }
  }
  return weakenings;
}

std::string ToString(const Site& site) {
  return Place({site.file, site.line}) + " " + Name(site.kind) + "(" + Name(site.order) + ") " +
         site.object;
}

std::string ToString(const ExploreResult& result) {
  std::string text = result.ok ? "passed" : "FAILED";
  if (!result.complete) text += ", incomplete";
  if (result.bounded) text += ", preemptions bounded";
  text += ": " + std::to_string(result.states) + " states, " + std::to_string(result.executions) +
          " executions, up to " + std::to_string(result.longest) + " operations";
  if (!result.ok) text += "\n" + result.failure;
  return text;
}

namespace {

Explorer& Current() {
  if (Explorer::current == nullptr) Misuse("used outside of Explore");
  return *Explorer::current;
}

}  // namespace

void BlockUntil(const std::function<bool()>& condition, Where where) {
  Request request{.op = {.kind = OpKind::kBlockUntil}, .where = where, .condition = &condition};
  Current().Step(request);
}

void Expect(bool condition, const char* what, Where where) {
  Current().Expect(condition, what, where);
}

bool InVirtualThread() { return Explorer::current != nullptr && Explorer::current->IsInThread(); }

void Fail(const char* what) {
  if (!InVirtualThread()) Misuse("Fail is for virtual threads");
  Current().FailAndUnwind(what);
}

void RememberOnly(std::initializer_list<Remembered> values, Where where) {
  Current().RememberOnly(values, where);
}

int Choose(int n, Where where) {
  if (n < 1) Misuse("Choose from nothing");
  Request request{.op = {.kind = OpKind::kChoose}, .where = where, .choices = n};
  return static_cast<int>(Current().Step(request).read);
}

namespace internal {

void AddBlock(const void* begin, size_t bytes) { Current().AddBlock(begin, bytes); }

Location::Location(LocationKind kind, uint64_t value) {
  id_ = Current().Create(kind, value, &execution_);
}

Location::~Location() {
  if (Explorer::current != nullptr) Explorer::current->Destroy(*this);
}

uint64_t Location::Load(OpKind kind, std::memory_order order, Where where) const {
  Request request{.op = {.kind = kind, .location = Current().IdOf(*this), .order = order},
                  .where = where};
  return Current().Step(request).read;
}

void Location::Store(OpKind kind, uint64_t value, std::memory_order order, Where where) {
  Request request{
      .op = {.kind = kind, .location = Current().IdOf(*this), .order = order, .operand = value},
      .where = where};
  Current().Step(request);
}

uint64_t Location::ReadModifyWrite(OpKind kind, uint64_t operand, Operation::Modify modify,
                                   std::memory_order order, Where where) {
  Request request{.op = {.kind = kind,
                         .location = Current().IdOf(*this),
                         .order = order,
                         .operand = operand,
                         .modify = modify},
                  .where = where};
  return Current().Step(request).read;
}

bool Location::CompareExchange(uint64_t& expected, uint64_t desired, std::memory_order order,
                               std::memory_order failed_order, Where where) {
  Request request{.op = {.kind = OpKind::kCompareExchange,
                         .location = Current().IdOf(*this),
                         .order = order,
                         .failed_order = failed_order,
                         .operand = desired,
                         .expected = expected},
                  .where = where};
  const Effect effect = Current().Step(request);
  if (!effect.wrote) expected = effect.read;
  return effect.wrote;
}

void Location::LockMutex(Where where) {
  Current().Step(
      {.op = {.kind = OpKind::kLock, .location = Current().IdOf(*this)}, .where = where});
}

bool Location::TryLockMutex(Where where) {
  return Current()
      .Step({.op = {.kind = OpKind::kTryLock, .location = Current().IdOf(*this)}, .where = where})
      .wrote;
}

void Location::UnlockMutex(Where where) {
  Current().Step(
      {.op = {.kind = OpKind::kUnlock, .location = Current().IdOf(*this)}, .where = where});
}

void Location::PlainRead() const { Current().PlainRead(*this); }

void Location::PlainWrite(bool exact, uint64_t bits) { Current().PlainWrite(*this, exact, bits); }

void SetLabel(const Location& location, const char* label) { Current().SetLabel(location, label); }

}  // namespace internal

}  // namespace sched::testing
