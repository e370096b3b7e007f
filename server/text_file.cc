// SPDX-License-Identifier: Apache-2.0
#include "server/text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace parkway {

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  struct Closer {
    void operator()(FILE* file) const { (void)std::fclose(file); }  // only read: nothing to lose
  };
  const std::unique_ptr<FILE, Closer> file(std::fopen(path.c_str(), "re"));
  if (file == nullptr) return absl::InvalidArgumentError(std::strerror(errno));
  std::string text;
  char buffer[4096];
  while (const size_t size = std::fread(buffer, 1, sizeof(buffer), file.get())) {
    text.append(buffer, size);
    if (text.size() > kTextFileBytesMax) return absl::InvalidArgumentError("larger than 1 MiB");
  }
  if (std::ferror(file.get()) != 0) return absl::InvalidArgumentError(std::strerror(errno));
  return text;
}

}  // namespace parkway
