// SPDX-License-Identifier: Apache-2.0
#include "sched/testing/memory_model.h"

#include <algorithm>
#include <cstring>

namespace sched::testing {
namespace {

constexpr uint16_t kKnown =
    1;  // atomic: its first message; plain: its last write; mutex: its construction

// Loops over views go in blocks, so that the compiler makes vector instructions of them.
constexpr int kBlock = 8;
static_assert(kLocationsMax % kBlock == 0);

constexpr uint16_t ReaderBit(int thread) { return static_cast<uint16_t>(2u << thread); }

// User-space addresses of heap, stacks and code on Linux, position-independent, with and without
// sanitizers.
bool LooksLikeAddress(uint64_t value) {
  return value >= 0x5000'0000'0000 && value < 0x1'0000'0000'0000;
}

}  // namespace

bool IsAcquire(std::memory_order order) {
  return order != std::memory_order_relaxed && order != std::memory_order_release;
}

bool IsRelease(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

void MemoryModel::Reset() {
  for (int id = 0; id < count_; ++id) locations_[id].live = false;
  created_.fill(0);
  names_.clear();
  blocks_.clear();
  thread_count_ = 0;
}

bool MemoryModel::Create(LocationKind kind, int thread, uint64_t value, int* location) {
  std::vector<int>& mine = by_owner_[thread + 1];
  const int ordinal = created_[thread + 1]++;
  if (ordinal == static_cast<int>(mine.size())) {
    if (count_ == kLocationsMax) return false;
    mine.push_back(count_++);
    locations_.resize(count_);
  }
  const int id = mine[ordinal];
  Location& created = locations_[id];
  created.kind = kind;
  bits_.at[id] = kind == LocationKind::kPlain ? uint16_t{0xffff} : uint16_t{0};
  created.live = true;
  created.owner = thread;
  created.ordinal = ordinal;
  created.history.clear();
  created.value = value;
  created.present = kKnown;
  created.last_writer = thread;
  created.holder = kNoThread;
  created.view = View();
  created.sc = View();
  created.sections = StateHash();
  if (kind == LocationKind::kAtomic) {
    Message& first = created.history.emplace_back();
    first.value = value;
    first.view.at[id] = kKnown;
  }
  for (int t = 0; t < thread_count_; ++t) {
    threads_[t].view.at[id] = t == thread ? kKnown : 0;
    threads_[t].sc.at[id] = 0;
  }
  *location = id;
  return true;
}

void MemoryModel::StartThreads(int count) {
  thread_count_ = count;
  for (int t = 0; t < count; ++t) {
    threads_[t] = Thread();
    for (int id = 0; id < count_; ++id) {
      if (locations_[id].live) threads_[t].view.at[id] = kKnown;
    }
  }
}

bool MemoryModel::KnowsConstruction(int thread, int location) const {
  return locations_[location].live && (locations_[location].kind == LocationKind::kGhost ||
                                       threads_[thread].view.at[location] != 0);
}

int MemoryModel::Outcomes(int thread, const Operation& op, int newest) {
  Enumerate(thread, op);
  const auto messages = static_cast<int>(locations_[op.location].history.size());
  int count = 0;
  for (const uint16_t index : candidates_) count += messages - index <= newest ? 1 : 0;
  return count;
}

void MemoryModel::Enumerate(int thread, const Operation& op) {
  candidates_.clear();
  const Location& location = locations_[op.location];
  const std::vector<Message>& history = location.history;
  const size_t known = threads_[thread].view.at[op.location];  // a place, counted from 1
  if (op.kind == OpKind::kStore) {
    size_t first = known;
    if (op.order == std::memory_order_seq_cst) {
      first = std::max<size_t>(first, threads_[thread].sc.at[op.location]);
    }
    for (size_t i = history.size(); i >= first; --i) {
      if (i == history.size() || !history[i].attached)
        candidates_.push_back(static_cast<uint16_t>(i));
    }
    return;
  }
  for (size_t i = history.size(); i >= known && i > 0; --i) {
    const size_t index = i - 1;
    bool possible = false;
    if (op.kind == OpKind::kLoad) {
      possible = IsReadable(thread, op.location, index, op.order);
    } else if (op.kind == OpKind::kCompareExchange && history[index].value != op.expected) {
      possible = IsReadable(thread, op.location, index, op.failed_order);
    } else {
      possible = IsReplaceable(location, index) && IsReadable(thread, op.location, index, op.order);
    }
    if (possible) candidates_.push_back(static_cast<uint16_t>(index));
  }
}

// A seq_cst load of a message comes before all seq_cst operations on newer ones in S. So it may not
// return one that is older than what an operation before it in S read or wrote there. Likewise a
// seq_cst store's place, in Enumerate.
bool MemoryModel::IsReadable(int thread, int location, size_t index,
                             std::memory_order order) const {
  return order != std::memory_order_seq_cst || index + 1 >= threads_[thread].sc.at[location];
}

bool MemoryModel::IsReplaceable(const Location& location, size_t index) const {
  return index + 1 == location.history.size() || !location.history[index + 1].attached;
}

Effect MemoryModel::Perform(int thread, const Operation& op, int outcome, int step) {
  Enumerate(thread, op);
  const size_t index = candidates_[outcome];
  if (op.kind == OpKind::kStore) return Store(thread, op, index, step);
  if (op.kind == OpKind::kLoad) return Load(thread, op.location, index, op.order);
  const uint64_t old = locations_[op.location].history[index].value;
  if (op.kind == OpKind::kCompareExchange && old != op.expected) {
    return Load(thread, op.location, index, op.failed_order);
  }
  return ReadModifyWrite(thread, op, index,
                         op.modify == nullptr ? op.operand : op.modify(old, op.operand), step);
}

Effect MemoryModel::Load(int thread, int location, size_t index, std::memory_order order) {
  Message& message = locations_[location].history[index];
  Thread& self = threads_[thread];
  // First S: what the message's release has in its past does not "strongly happen" before this
  // load, only before what follows it.
  if (order == std::memory_order_seq_cst) OrderInS(thread, location, index, false);
  self.view.at[location] = static_cast<uint16_t>(index + 1);
  if (IsAcquire(order)) {
    Join(self.view, message.view);
    Join(self.sc, message.sc);
  }
  Effect effect;
  effect.read = message.value;
  effect.newer = static_cast<int>(locations_[location].history.size() - 1 - index);
  effect.read_from_step = message.step;
  return effect;
}

Effect MemoryModel::Store(int thread, const Operation& op, size_t index, int step) {
  Thread& self = threads_[thread];
  Message message;
  message.value = op.operand;
  message.step = step;
  if (IsRelease(op.order)) {
    message.view = self.view;
    message.sc = self.sc;
  }
  Insert(op.location, index, message);
  if (op.order == std::memory_order_seq_cst) OrderInS(thread, op.location, index, true);
  self.view.at[op.location] = static_cast<uint16_t>(index + 1);
  locations_[op.location].history[index].view.at[op.location] = static_cast<uint16_t>(index + 1);
  Effect effect;
  effect.written = op.operand;
  effect.wrote = true;
  effect.newer = static_cast<int>(locations_[op.location].history.size() - 1 - index);
  return effect;
}

Effect MemoryModel::ReadModifyWrite(int thread, const Operation& op, size_t index, uint64_t value,
                                    int step) {
  Thread& self = threads_[thread];
  Message& old = locations_[op.location].history[index];
  Effect effect;
  effect.read = old.value;
  effect.read_from_step = old.step;
  effect.written = value;
  effect.wrote = true;
  Message message;
  message.value = value;
  message.step = step;
  message.attached = true;
  message.view = old.view;  // the release sequence
  message.sc = old.sc;
  if (IsRelease(op.order)) {
    Join(message.view, self.view);
    Join(message.sc, self.sc);
  }
  const size_t place = index + 1;
  Insert(op.location, place, message);
  if (op.order == std::memory_order_seq_cst) OrderInS(thread, op.location, place, true);
  if (IsAcquire(op.order)) {
    Join(self.view, locations_[op.location].history[index].view);
    Join(self.sc, locations_[op.location].history[index].sc);
  }
  self.view.at[op.location] = static_cast<uint16_t>(place + 1);
  Message& mine = locations_[op.location].history[place];
  mine.view.at[op.location] = static_cast<uint16_t>(place + 1);
  effect.newer = static_cast<int>(locations_[op.location].history.size() - 1 - place);
  return effect;
}

// Messages from `index` on move up by one, and with them all that points at them.
void MemoryModel::Insert(int location, size_t index, const Message& message) {
  std::vector<Message>& history = locations_[location].history;
  const bool at_end = index == history.size();
  history.insert(history.begin() + static_cast<std::ptrdiff_t>(index), message);
  if (at_end) return;
  const auto shift = [&](View& view) {
    if (view.at[location] > index) ++view.at[location];
  };
  ForEachView(shift);
  ForEachScView(shift);
}

// Puts a seq_cst access of the message at `index` into S: behind what its thread brings along,
// behind the accesses of older messages and, if it is a load, the store of this one; before the
// accesses of newer messages.
void MemoryModel::OrderInS(int thread, int location, size_t index, bool is_write) {
  std::vector<Message>& history = locations_[location].history;
  View past = threads_[thread].sc;
  const auto has = [&](const View& view) { return view.at[location] != 0; };
  if (!is_write && has(history[index].sc_writer)) {
    Join(past, history[index].sc_writer);
  } else {
    // The next older one will do: those before it are in its past.
    size_t i = index;
    while (i > 0 && !has(history[i - 1].sc_writer) && !has(history[i - 1].sc_readers)) --i;
    if (i > 0) {
      Join(past, history[i - 1].sc_writer);
      Join(past, history[i - 1].sc_readers);
    }
  }
  const auto place = static_cast<uint16_t>(index + 1);
  past.at[location] = place;
  Join(is_write ? history[index].sc_writer : history[index].sc_readers, past);
  if (place < history.size()) {
    // Whatever is behind an access of a newer message is behind this one, too.
    ForEachScView([&](View& view) {
      if (view.at[location] > place) Join(view, past);
    });
  }
  Join(threads_[thread].sc, past);
}

bool MemoryModel::PlainRead(int thread, int location, int* other) {
  if (thread == kNoThread) return true;
  Location& plain = locations_[location];
  uint16_t& mine = threads_[thread].view.at[location];
  if ((mine & kKnown) == 0) {
    *other = plain.last_writer;
    return false;
  }
  // Nobody else knows of this read, even if they knew of an earlier one.
  const uint16_t bit = ReaderBit(thread);
  ForEachView([&](View& view) { view.at[location] &= static_cast<uint16_t>(~bit); });
  mine |= bit;
  plain.present |= bit;
  return true;
}

bool MemoryModel::PlainWrite(int thread, int location, uint64_t value, int* other) {
  Location& plain = locations_[location];
  if (thread != kNoThread) {
    uint16_t& mine = threads_[thread].view.at[location];
    const auto unknown = static_cast<uint16_t>(plain.present & ~mine);
    if (unknown != 0) {
      *other = plain.last_writer;
      for (int t = 0; t < thread_count_ && (unknown & kKnown) == 0; ++t) {
        if ((unknown & ReaderBit(t)) != 0) *other = t;
      }
      return false;
    }
    ForEachView([&](View& view) { view.at[location] = 0; });
    mine = kKnown;
    plain.present = kKnown;
  }
  plain.value = value;
  plain.last_writer = thread;
  return true;
}

void MemoryModel::Lock(int thread, int location) {
  Location& mutex = locations_[location];
  mutex.holder = thread;
  Join(threads_[thread].view, mutex.view);
  Join(threads_[thread].sc, mutex.sc);
}

void MemoryModel::Unlock(int thread, int location, const StateHash& section) {
  Location& mutex = locations_[location];
  mutex.holder = kNoThread;
  Join(mutex.view, threads_[thread].view);
  Join(mutex.sc, threads_[thread].sc);
  mutex.sections.Mix(static_cast<uint64_t>(thread));
  mutex.sections.Mix(section);
}

uint64_t MemoryModel::Latest(int location) const {
  const Location& it = locations_[location];
  return it.kind == LocationKind::kAtomic ? it.history.back().value : it.value;
}

void MemoryModel::SetLatest(int location, uint64_t value) {
  Location& it = locations_[location];
  (it.kind == LocationKind::kAtomic ? it.history.back().value : it.value) = value;
}

void MemoryModel::SeeLatest(int thread, int location) {
  const Location& it = locations_[location];
  if (it.kind == LocationKind::kAtomic) {
    threads_[thread].view.at[location] = static_cast<uint16_t>(it.history.size());
  }
}

uint64_t MemoryModel::Name(int thread, const StateHash& when, uint64_t value) {
  if (!LooksLikeAddress(value)) return value;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (value - blocks_[i].begin < blocks_[i].bytes)
      return (0xb10c00 + i) << 40 | (value - blocks_[i].begin);
  }
  for (const Named& named : names_) {
    if (named.value == value) return named.name;
  }
  // After the thread that is the first to store it, and what that has done before: the same in
  // every order of the threads.
  StateHash hash = when;
  hash.Mix(static_cast<uint64_t>(thread));
  if (thread == kNoThread) hash.Mix(names_.size());
  uint64_t name = hash.low();
  const auto is_taken = [&] {
    return std::any_of(names_.begin(), names_.end(),
                       [&](const Named& it) { return it.name == name; });
  };
  while (is_taken()) ++name;
  names_.push_back({value, name});
  return name;
}

// States are told apart only by what matters from here on: places are counted from the oldest
// message that some thread may still read, and knowledge that every thread has is left out. Threads
// that have finished count by their results alone, which the explorer adds.
void MemoryModel::Hash(unsigned unfinished, StateHash* hash) {
  View floor;
  for (int id = 0; id < count_; ++id) {
    if (!locations_[id].live) continue;
    const bool is_atomic = locations_[id].kind == LocationKind::kAtomic;
    auto all = is_atomic ? static_cast<uint16_t>(locations_[id].history.size()) : uint16_t{0xffff};
    for (int t = 0; t < thread_count_; ++t) {
      if ((unfinished >> t & 1) == 0) continue;
      const uint16_t known = threads_[t].view.at[id];
      all = is_atomic ? std::min(all, known) : static_cast<uint16_t>(all & known);
    }
    floor.at[id] = all;
  }
  const auto mix_view = [&](const View& view) {
    for (int block = 0; block < count_; block += kBlock) {
      uint16_t beyond[kBlock];
      for (int i = 0; i < kBlock; ++i) {
        const uint16_t at = view.at[block + i];
        const uint16_t all = floor.at[block + i];
        const uint16_t bits = bits_.at[block + i];
        const auto newer = static_cast<uint16_t>(std::max(at, all) - all);
        beyond[i] = static_cast<uint16_t>((newer & ~bits) | (at & ~all & bits));
      }
      uint64_t words[2];
      static_assert(sizeof(words) == sizeof(beyond));
      std::memcpy(words, beyond, sizeof(words));
      if ((words[0] | words[1]) == 0) continue;
      hash->Mix(static_cast<uint64_t>(block) + 1);
      hash->Mix(words[0]);
      hash->Mix(words[1]);
    }
    hash->Mix(0);
  };
  for (int id = 0; id < count_; ++id) {
    const Location& location = locations_[id];
    hash->Mix(location.live ? static_cast<uint64_t>(id) : ~uint64_t{0});
    if (!location.live) continue;
    switch (location.kind) {
      case LocationKind::kAtomic: {
        View past;  // in S, of an access of the oldest message that still matters
        const size_t oldest = floor.at[id] == 0 ? 0 : floor.at[id] - 1u;
        for (size_t i = 0; i < location.history.size(); ++i) {
          const Message& message = location.history[i];
          if (i <= oldest && message.sc_writer.at[id] != 0) Join(past, message.sc_writer);
          if (i >= oldest) {
            hash->Mix(Name(kNoThread, StateHash(), message.value));
            hash->Mix(message.attached && i > oldest ? 1 : 0);
            mix_view(message.view);
            mix_view(message.sc);
            const View& writer = i == oldest ? past : message.sc_writer;
            if (writer.at[id] != 0) mix_view(writer);
            if (message.sc_readers.at[id] != 0) mix_view(message.sc_readers);
            hash->Mix((writer.at[id] != 0 ? 1 : 0) + (message.sc_readers.at[id] != 0 ? 2 : 0));
          }
          if (i < oldest && message.sc_readers.at[id] != 0) Join(past, message.sc_readers);
        }
        hash->Mix(location.history.size() - oldest);
        break;
      }
      case LocationKind::kPlain:
        hash->Mix(location.value);
        hash->Mix(location.present | floor.at[id]);
        break;
      case LocationKind::kMutex:
        hash->Mix(static_cast<uint64_t>(location.holder) + 1);
        hash->Mix(location.sections);
        mix_view(location.view);
        mix_view(location.sc);
        break;
      case LocationKind::kGhost:
        hash->Mix(Name(kNoThread, StateHash(), location.value));
        break;
    }
  }
  for (int t = 0; t < thread_count_; ++t) {
    if ((unfinished >> t & 1) == 0) continue;
    mix_view(threads_[t].view);
    mix_view(threads_[t].sc);
  }
}

void MemoryModel::Join(View& view, const View& other) const {
  // Places of atomics grow, the bits of plain variables gather.
  for (int block = 0; block < count_; block += kBlock) {
    for (int id = block; id < block + kBlock; ++id) {
      const uint16_t gathered = (view.at[id] | other.at[id]) & bits_.at[id];
      view.at[id] = std::max(std::max(view.at[id], other.at[id]), gathered);
    }
  }
}

template <class Visit>
void MemoryModel::ForEachView(Visit visit) {
  for (int t = 0; t < thread_count_; ++t) visit(threads_[t].view);
  for (int id = 0; id < count_; ++id) {
    if (!locations_[id].live) continue;
    visit(locations_[id].view);
    for (Message& message : locations_[id].history) visit(message.view);
  }
}

template <class Visit>
void MemoryModel::ForEachScView(Visit visit) {
  for (int t = 0; t < thread_count_; ++t) visit(threads_[t].sc);
  for (int id = 0; id < count_; ++id) {
    if (!locations_[id].live) continue;
    visit(locations_[id].sc);
    for (Message& message : locations_[id].history) {
      visit(message.sc);
      visit(message.sc_writer);
      visit(message.sc_readers);
    }
  }
}

}  // namespace sched::testing
