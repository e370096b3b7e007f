// SPDX-License-Identifier: Apache-2.0
//
// How much memory is in use: by this process, and by the control group whose limit it would meet
// first.
#ifndef PARKWAY_SERVER_MEMORY_METER_H_
#define PARKWAY_SERVER_MEMORY_METER_H_

#include <cstdint>
#include <memory>
#include <string>

namespace parkway {

class MemoryMeter {
 public:
  virtual ~MemoryMeter() = default;

  // In bytes, the least limit of the process's control groups as it was at the start; 0: none has
  // one.
  virtual int64_t GroupLimit() const = 0;

  // In bytes; 0: it cannot be told. Any thread; a system call or two, of microseconds.
  //
  // What the group with that limit holds, without contents of files that the kernel would give up
  // to make room. `enough`: below it they may be in it, which saves asking for them.
  virtual int64_t GroupUsed(int64_t enough) const = 0;
  // What this process holds that no file does.
  virtual int64_t OwnUsed() const = 0;

  // The machine's. `root` is put before every path, for tests. Blocks the thread on files, which
  // stay open, so that a lack of descriptors does not blind it.
  static std::unique_ptr<MemoryMeter> OfThisProcess(const std::string& root = "");
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_MEMORY_METER_H_
