// SPDX-License-Identifier: Apache-2.0
#include "server/memory_meter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include "sched/control_groups.h"

namespace parkway {
namespace {

// A file of the kernel's that is read again and again, from its beginning.
class KernelFile {
 public:
  // More than cgroups' memory.stat has, and no more than a page of a fiber's stack.
  using Buffer = std::array<char, 4096>;

  KernelFile() = default;
  explicit KernelFile(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  KernelFile(KernelFile&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  KernelFile& operator=(KernelFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~KernelFile() {
    if (fd_ >= 0) close(fd_);
  }

  // Empty if it cannot be read.
  std::string_view Read(Buffer& buffer) const {
    const ssize_t count = pread(fd_, buffer.data(), buffer.size(), 0);
    return {buffer.data(), count > 0 ? static_cast<size_t>(count) : 0};
  }

 private:
  int fd_ = -1;
};

// The number that the text begins with, and removes it with what stands before the next; 0 for
// none.
int64_t TakeNumber(std::string_view& text) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const char* const after = std::from_chars(text.data(), end, number).ptr;
  text.remove_prefix(static_cast<size_t>(after - text.data()));
  text.remove_prefix(std::min(text.find_first_of("0123456789"), text.size()));
  return number;
}

// What stands behind a name at the beginning of a line; 0 for none.
int64_t NumberOf(std::string_view name, std::string_view lines) {
  const std::string start = "\n" + std::string(name) + " ";
  const size_t at = lines.find(start);
  if (at == std::string_view::npos) return 0;
  lines.remove_prefix(at + start.size());
  return TakeNumber(lines);
}

// "max", and what version 1 has for it, are none: 0.
int64_t LimitIn(const std::string& path) {
  constexpr int64_t kNoLimit = int64_t{1} << 60;
  int64_t limit = 0;
  std::ifstream(path) >> limit;
  return limit >= kNoLimit ? 0 : limit;
}

// Beyond memory.high the kernel stops the group's threads again and again.
int64_t LimitOf(const sched::ControlGroup& group) {
  if (!group.v2) return LimitIn(group.folder + "/memory.limit_in_bytes");
  const int64_t max = LimitIn(group.folder + "/memory.max");
  const int64_t high = LimitIn(group.folder + "/memory.high");
  return max == 0 || high == 0 ? std::max(max, high) : std::min(max, high);
}

// One with a limit.
class LimitedGroup {
 public:
  LimitedGroup(const sched::ControlGroup& group, int64_t limit)
      : limit_(limit),
        v2_(group.v2),
        usage_(group.folder + (v2_ ? "/memory.current" : "/memory.usage_in_bytes")),
        stat_(group.folder + "/memory.stat") {}

  int64_t limit() const { return limit_; }

  // How much it may still take. `enough`: when it is that much at least, contents of files may not
  // be in it.
  int64_t Room(int64_t enough) const {
    KernelFile::Buffer buffer;
    std::string_view text = usage_.Read(buffer);
    const int64_t room = limit_ - TakeNumber(text);
    if (room > enough) return room;
    const std::string_view stat = stat_.Read(buffer);
    return room + NumberOf(v2_ ? "inactive_file" : "total_inactive_file", stat) +
           NumberOf(v2_ ? "active_file" : "total_active_file", stat);
  }

 private:
  int64_t limit_;
  bool v2_;
  KernelFile usage_, stat_;
};

class OwnMeter final : public MemoryMeter {
 public:
  explicit OwnMeter(const std::string& root) : statm_(root + "/proc/self/statm") {
    for (const sched::ControlGroup& group : sched::ControlGroups("memory", root)) {
      const int64_t limit = LimitOf(group);
      if (limit == 0) continue;
      groups_.emplace_back(group, limit);
      limit_ = limit_ == 0 ? limit : std::min(limit_, limit);
    }
  }

  int64_t GroupLimit() const override { return limit_; }

  int64_t GroupUsed(int64_t enough) const override {
    int64_t room = limit_;
    for (const LimitedGroup& group : groups_) room = std::min(room, group.Room(limit_ - enough));
    return limit_ - room;
  }

  // "size resident shared ..." in pages (proc(5)).
  int64_t OwnUsed() const override {
    KernelFile::Buffer buffer;
    std::string_view text = statm_.Read(buffer);
    TakeNumber(text);
    const int64_t resident = TakeNumber(text);
    return (resident - TakeNumber(text)) * page_bytes_;
  }

 private:
  const int64_t page_bytes_ = sysconf(_SC_PAGESIZE);
  KernelFile statm_;
  int64_t limit_ = 0;  // the least; 0: there is none
  std::vector<LimitedGroup> groups_;
};

}  // namespace

std::unique_ptr<MemoryMeter> MemoryMeter::OfThisProcess(const std::string& root) {
  return std::make_unique<OwnMeter>(root);
}

}  // namespace parkway
