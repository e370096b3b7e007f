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
int64_t LimitOf(const sched::ControlGroup& group) {
  constexpr int64_t kNoLimit = int64_t{1} << 60;
  int64_t limit = 0;
  std::ifstream(group.folder + (group.v2 ? "/memory.max" : "/memory.limit_in_bytes")) >> limit;
  return limit >= kNoLimit ? 0 : limit;
}

class OwnMeter final : public MemoryMeter {
 public:
  explicit OwnMeter(const std::string& root) : statm_(root + "/proc/self/statm") {
    for (const sched::ControlGroup& group : sched::ControlGroups("memory", root)) {
      const int64_t limit = LimitOf(group);
      // Of two that are equal the outer one, in which the other one counts.
      if (limit > 0 && (limit_ == 0 || limit <= limit_)) Take(group, limit);
    }
  }

  int64_t GroupLimit() const override { return limit_; }

  int64_t GroupUsed(int64_t enough) const override {
    KernelFile::Buffer buffer;
    std::string_view text = usage_.Read(buffer);
    const int64_t used = TakeNumber(text);
    return used < enough ? used : used - NumberOf(reclaimable_, stat_.Read(buffer));
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
  void Take(const sched::ControlGroup& group, int64_t limit) {
    limit_ = limit;
    usage_ = KernelFile(group.folder + (group.v2 ? "/memory.current" : "/memory.usage_in_bytes"));
    stat_ = KernelFile(group.folder + "/memory.stat");
    reclaimable_ = group.v2 ? "inactive_file" : "total_inactive_file";
  }

  const int64_t page_bytes_ = sysconf(_SC_PAGESIZE);
  KernelFile statm_;
  int64_t limit_ = 0;
  KernelFile usage_, stat_;
  std::string_view reclaimable_;
};

}  // namespace

std::unique_ptr<MemoryMeter> MemoryMeter::OfThisProcess(const std::string& root) {
  return std::make_unique<OwnMeter>(root);
}

}  // namespace parkway
