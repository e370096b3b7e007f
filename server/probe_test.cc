// SPDX-License-Identifier: Apache-2.0
#include "server/probe.h"

#include "gtest/gtest.h"

namespace parkway {
namespace {

TEST(ProbeTest, TheStatusLineDecides) {
  for (const char* good : {"HTTP/1.1 200 OK\r\n", "HTTP/1.0 204", "HTTP/1.1 399 x"}) {
    EXPECT_EQ(JudgeHttp(good), Answer::kGood) << good;
  }
  for (const char* bad : {"HTTP/1.1 500 x", "HTTP/1.1 404 x", "HTTP/1.1 100 Continue", "SSH-2.0-x",
                          "HTTP/1.1x200", "HTTP/1.1 2x0", "HTTP/1.1 20\r\n", "h"}) {
    EXPECT_EQ(JudgeHttp(bad), Answer::kBad) << bad;
  }
}

TEST(ProbeTest, AnAnswerMayComeInPieces) {
  const std::string answer = "HTTP/1.1 200";
  for (size_t i = 0; i < answer.size(); ++i) {
    EXPECT_EQ(JudgeHttp(answer.substr(0, i)), Answer::kMore) << i;
  }
}

}  // namespace
}  // namespace parkway
