// SPDX-License-Identifier: Apache-2.0
#include "netpoll/internal/poll_shard.h"

#include <algorithm>
#include <ctime>
#include <memory>
#include <new>
#include <utility>

#include "sched/check.h"
#include "sched/park.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace netpoll::internal {
namespace {

// epoll_event.data of the eventfd; no PollDesc has this index.
constexpr uint64_t kInterruptData = UINT64_MAX;
constexpr timespec kNoWait = {0, 0};

// epoll_event.data of a PollDesc: its address, of whose 48 bits the last 6 are 0, and its
// generation.
constexpr int kAddressShift = 16;
constexpr uint64_t kGenerationMask = (uint64_t{1} << PollDesc::kGenerationBits) - 1;
static_assert(alignof(PollDesc) << kAddressShift == kGenerationMask + 1);

uint64_t DataOf(const PollDesc& desc) {
  return reinterpret_cast<uintptr_t>(&desc) << kAddressShift | desc.generation();
}

// What a descriptor is watched for.
epoll_event EventFor(const PollDesc& desc, bool writes) {
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET;
  if (writes) event.events |= EPOLLOUT;
  event.data.u64 = DataOf(desc);
  return event;
}

PollDesc& DescOf(uint64_t data) {
  return *reinterpret_cast<PollDesc*>((data & ~kGenerationMask) >> kAddressShift);
}

// Who is told of a descriptor finds what was written before it was watched: the kernel's lock of
// the epoll orders the two. GCC 12's ThreadSanitizer does not know epoll_pwait2, and so not that.
#if defined(__SANITIZE_THREAD__)
void BeforeWatching(PollShard& shard) { __tsan_release(&shard); }
void AfterBeingTold(PollShard& shard) { __tsan_acquire(&shard); }
#else
void BeforeWatching(PollShard& /*shard*/) {}
void AfterBeingTold(PollShard& /*shard*/) {}
#endif

}  // namespace

PollShard::PollShard(const Kernel& kernel, sched::Host& host, int index_in, const Shards& all)
    : index(index_in), kernel_(kernel), host_(host), all_(all) {}

PollShard::~PollShard() {
  PARKWAY_CHECK(in_use() == 0, in_use());
  for (PollDesc* const descs : chunks_) {
    std::destroy_n(descs, kChunk);
    ::operator delete(descs, std::align_val_t(alignof(PollDesc)));
  }
  if (event_ >= 0) kernel_.Close(event_);
  if (epoll_ >= 0) kernel_.Close(epoll_);
}

absl::Status PollShard::Open() {
  epoll_ = kernel_.EpollCreate(EPOLL_CLOEXEC);
  if (epoll_ < 0) return absl::ErrnoToStatus(-epoll_, "epoll_create1");
  event_ = kernel_.EventFd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_ < 0) return absl::ErrnoToStatus(-event_, "eventfd");
  epoll_event event = {};
  // Level-triggered: a thief's poll must not swallow it.
  event.events = EPOLLIN;
  event.data.u64 = kInterruptData;
  const int added = kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, event_, &event);
  if (added < 0) return absl::ErrnoToStatus(-added, "epoll_ctl");
  const int waited = kernel_.EpollWait(epoll_, &event, 1, &kNoWait);
  if (waited < 0) return absl::ErrnoToStatus(-waited, "epoll_pwait2");
  return absl::OkStatus();
}

void PollShard::Wait(sched::Deadline until, sched::WaiterList& ready) {
  if (until == sched::kLongAgo) {
    Collect(&kNoWait, ready, /*consume_interrupt=*/false);
    return;
  }
  if (until == sched::kNever) {
    Collect(nullptr, ready, /*consume_interrupt=*/true);
    return;
  }
  const int64_t left = std::max<int64_t>((until - host_.Now()).count(), 0);
  const timespec timeout = {left / 1'000'000'000, left % 1'000'000'000};
  Collect(&timeout, ready, /*consume_interrupt=*/true);
}

bool PollShard::Poll(sched::WaiterList& ready) {
  // Acquire and release: one thief after the other.
  if (polled_by_thief_.exchange(true, std::memory_order_acquire)) return false;
  Collect(&kNoWait, ready, /*consume_interrupt=*/false);
  polled_by_thief_.store(false, std::memory_order_release);
  return true;
}

int PollShard::Collect(const timespec* timeout, sched::WaiterList& ready, bool consume_interrupt) {
  epoll_event events[kEventsMax];
  const int count = kernel_.EpollWait(epoll_, events, kEventsMax, timeout);
  PARKWAY_CHECK(count >= 0, -count);
  AfterBeingTold(*this);
  for (int i = 0; i < count; ++i) {
    const uint64_t data = events[i].data.u64;
    if (data == kInterruptData) {
      if (consume_interrupt) ConsumeInterrupt();
      continue;
    }
    DescOf(data).OnEvent(data & kGenerationMask, events[i].events, ready);
  }
  return count;
}

void PollShard::Interrupt() {
  if (interrupted_.exchange(true, std::memory_order_seq_cst)) return;
  const ssize_t written = kernel_.WriteEvent(event_, 1);
  PARKWAY_CHECK(written == sizeof(uint64_t), -written);
}

void PollShard::ConsumeInterrupt() {
  uint64_t count;
  const ssize_t got = kernel_.ReadEvent(event_, &count);
  PARKWAY_CHECK(got == sizeof count || got == -EAGAIN, -got);
  interrupted_.store(false, std::memory_order_seq_cst);
}

int PollShard::Register(PollDesc& desc, int fd, Direction direction) {
  PollShard& watcher = *all_[desc.watched_by()];
  BeforeWatching(watcher);
  const int epoll = watcher.epoll_;
  const bool writes = direction == Direction::kWrite;
  epoll_event event = EventFor(desc, writes);
  const bool is_watched = (desc.event_bits() & kRegistered) != 0;
  int error = is_watched ? -EEXIST : kernel_.EpollCtl(epoll, EPOLL_CTL_ADD, fd, &event);
  // Or the other direction's waiter was first. Only a writer widens what is watched, and there is
  // one at a time.
  if (error == -EEXIST) error = writes ? kernel_.EpollCtl(epoll, EPOLL_CTL_MOD, fd, &event) : 0;
  // A reader is moving it to another shard, which watches it for both (TakeOver).
  if (error == -ENOENT) return 0;
  if (error < 0) return -error;
  desc.NoteRegistered(writes ? kRegistered | kWatchedOut : kRegistered);
  return 0;
}

// Between the two calls nobody watches it; what comes then is reported when the second begins to.
void PollShard::TakeOver(PollDesc& desc, int fd) {
  PollShard& before = *all_[desc.watched_by()];
  if (kernel_.EpollCtl(before.epoll_, EPOLL_CTL_DEL, fd, nullptr) < 0) return;
  if (Watch(desc, fd)) {
    taken_over_.store(taken_over_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  } else if (!before.Watch(desc, fd)) {
    desc.Forget();
  }
}

// For both directions: a writer that registers meanwhile relies on it.
bool PollShard::Watch(PollDesc& desc, int fd) {
  epoll_event event = EventFor(desc, /*writes=*/true);
  desc.SetWatchedBy(index);
  BeforeWatching(*this);
  if (kernel_.EpollCtl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) return false;
  desc.NoteRegistered(kRegistered | kWatchedOut);
  return true;
}

PollDesc* PollShard::Take() {
  if (free_ == nullptr) free_ = given_.exchange(nullptr, std::memory_order_acquire);
  if (free_ == nullptr) Grow();
  PollDesc* const desc = std::exchange(free_, free_->next_free);
  NoteOwnUse(1);
  return desc;
}

void PollShard::Give(PollDesc* desc) {
  desc->Recycle();
  if (sched::CurrentEventSource() == this) {
    desc->next_free = std::exchange(free_, desc);
    return NoteOwnUse(-1);
  }
  given_by_others_.fetch_add(1, std::memory_order_relaxed);
  desc->next_free = given_.load(std::memory_order_relaxed);
  while (!given_.compare_exchange_weak(desc->next_free, desc, std::memory_order_release,
                                       std::memory_order_relaxed)) {
  }
}

void PollShard::NoteOwnUse(int more) {
  own_uses_.store(own_uses_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

void PollShard::Grow() {
  auto* const descs = static_cast<PollDesc*>(
      ::operator new(kChunk * sizeof(PollDesc), std::align_val_t(alignof(PollDesc))));
  PARKWAY_CHECK(reinterpret_cast<uintptr_t>(descs + kChunk) >> (64 - kAddressShift) == 0, index);
  for (size_t i = kChunk; i-- > 0;) {
    auto* const desc = new (descs + i) PollDesc(*this);
    desc->next_free = std::exchange(free_, desc);
  }
  chunks_.push_back(descs);
}

}  // namespace netpoll::internal
