// SPDX-License-Identifier: Apache-2.0
#include "server/crc32c.h"

#include <string>

#include "gtest/gtest.h"

namespace parkway {
namespace {

TEST(Crc32cTest, IsThatOfTheStandard) {  // RFC 3720, B.4
  std::string up, down;
  for (int i = 0; i < 32; ++i) {
    up += static_cast<char>(i);
    down += static_cast<char>(31 - i);
  }
  EXPECT_EQ(ExtendCrc32c(0, std::string(32, '\0')), 0x8a9136aa);
  EXPECT_EQ(ExtendCrc32c(0, std::string(32, '\xff')), 0x62a8ab43);
  EXPECT_EQ(ExtendCrc32c(0, up), 0x46dd794e);
  EXPECT_EQ(ExtendCrc32c(0, down), 0x113fdb5c);
  EXPECT_EQ(ExtendCrc32c(0, "123456789"), 0xe3069283);
  EXPECT_EQ(ExtendCrc32c(0, ""), 0);
}

TEST(Crc32cTest, GoesOnWhereItStopped) {
  const std::string_view bytes = "123456789";
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    EXPECT_EQ(ExtendCrc32c(ExtendCrc32c(0, bytes.substr(0, cut)), bytes.substr(cut)), 0xe3069283);
  }
}

}  // namespace
}  // namespace parkway
