// SPDX-License-Identifier: Apache-2.0
//
// How much memory is in use: by this process, and by the control groups that limit it.
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
  // one. Of version 2, memory.high is one, too.
  virtual int64_t GroupLimit() const = 0;

  // In bytes; 0: it cannot be told. Any thread; a system call or two for each group with a limit.
  //
  // GroupLimit() less the room that there is in the fullest of the groups: contents of files, which
  // the kernel would give up, are room. `enough`: below it they may count as used, which saves
  // asking for them.
  virtual int64_t GroupUsed(int64_t enough) const = 0;
  // What this process holds that no file does.
  virtual int64_t OwnUsed() const = 0;

  // The machine's. `root` is put before every path, for tests. Blocks the thread on files, which
  // stay open, so that a lack of descriptors does not blind it.
  static std::unique_ptr<MemoryMeter> OfThisProcess(const std::string& root = "");
};

}  // namespace parkway

#endif  // PARKWAY_SERVER_MEMORY_METER_H_
