// SPDX-License-Identifier: Apache-2.0
//
// A fuzz target as an ordinary test: runs it once on every file given, and on every file in the
// folders given. It takes no libFuzzer and no sanitizer, though it may have the latter.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "sched/testing/fuzz.h"

namespace {

std::vector<std::filesystem::path> FilesOf(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return {path};
  const std::filesystem::directory_iterator entries(path);
  std::vector<std::filesystem::path> files(begin(entries), end(entries));
  std::sort(files.begin(), files.end());
  return files;
}

bool Replay(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    return false;
  }
  std::fprintf(stderr, "%s\n", path.c_str());  // the last one named is the one that failed
  // Of exactly this size on the heap: AddressSanitizer sees the first byte read past it.
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  for (int i = 1; i < argc; ++i) {
    for (const std::filesystem::path& file : FilesOf(argv[i])) {
      if (!Replay(file)) return 1;
      ++count;
    }
  }
  std::fprintf(stderr, "replayed %d files\n", count);
  return count > 0 ? 0 : 1;  // an empty corpus would test nothing
}
