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

std::string PathBeside(const std::string& other, const std::string& path) {
  const size_t slash = other.rfind('/');
  const bool is_relative = !path.starts_with('/') && slash != other.npos;
  return (is_relative ? other.substr(0, slash + 1) : "") + path;
}

}  // namespace parkway
