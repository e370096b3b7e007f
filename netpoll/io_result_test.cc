// SPDX-License-Identifier: Apache-2.0
#include "netpoll/io_result.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace netpoll {
namespace {

TEST(IoResultTest, AnErrnoMapsToWhatTheCallerHasToDo) {
  struct Case {
    int os_error;
    IoStatus status;
  };
  constexpr Case kCases[] = {
      {EAGAIN, IoStatus::kAgain},       {EWOULDBLOCK, IoStatus::kAgain},
      {ECONNRESET, IoStatus::kReset},   {EPIPE, IoStatus::kReset},
      {ETIMEDOUT, IoStatus::kReset},    {ENOTCONN, IoStatus::kReset},
      {EHOSTUNREACH, IoStatus::kReset}, {ENETUNREACH, IoStatus::kReset},
      {ENETDOWN, IoStatus::kReset},     {ECONNABORTED, IoStatus::kReset},
      {ECONNREFUSED, IoStatus::kError}, {EMFILE, IoStatus::kError},
      {ENOBUFS, IoStatus::kError},      {EBADF, IoStatus::kError},
      {EINVAL, IoStatus::kError},
  };
  for (const Case& c : kCases) {
    const IoResult result = IoResult::FromErrno(c.os_error);
    EXPECT_EQ(result.status, c.status) << c.os_error;
    EXPECT_EQ(result.os_error, c.os_error);
    EXPECT_EQ(result.bytes, 0u);
    EXPECT_FALSE(result.ok());
  }
}

TEST(IoResultTest, NoErrorIsOk) {
  EXPECT_TRUE(IoResult::FromErrno(0, 7).ok());
  EXPECT_EQ(IoResult::FromErrno(0, 7).bytes, 7u);
}

TEST(IoResultTest, WhatWasMovedBeforeAnErrorIsKept) {
  EXPECT_EQ(IoResult::FromErrno(EPIPE, 7).bytes, 7u);
  EXPECT_EQ(IoResult::FromErrno(EINVAL, 8).bytes, 8u);
}

TEST(IoResultTest, AStatusSaysWhatAndWhy) {
  EXPECT_TRUE(IoResult{.bytes = 3}.ToStatus("read").ok());
  EXPECT_EQ(IoResult::FromErrno(ECONNREFUSED).ToStatus("connect").message(),
            "connect: Connection refused");
  EXPECT_EQ(IoResult{.status = IoStatus::kEof}.ToStatus("read").message(), "read: end of stream");
}

TEST(IoResultTest, AStatusTellsTimeoutAndCloseFromFailure) {
  const auto code = [](IoResult result) { return result.ToStatus("x").code(); };
  EXPECT_EQ(code({.status = IoStatus::kTimeout}), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(code({.status = IoStatus::kClosed}), absl::StatusCode::kCancelled);
  EXPECT_EQ(code({.status = IoStatus::kEof}), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(IoResult::FromErrno(ECONNRESET)), absl::StatusCode::kUnavailable);
}

TEST(IoResultTest, EveryStatusHasAName) {
  for (const IoStatus status : {IoStatus::kOk, IoStatus::kEof, IoStatus::kAgain, IoStatus::kTimeout,
                                IoStatus::kClosed, IoStatus::kReset, IoStatus::kError}) {
    EXPECT_NE(std::string(ToString(status)), "?");
  }
}

TEST(IoResultTest, TheHotPathReturnsItInTwoRegisters) { EXPECT_EQ(sizeof(IoResult), 16u); }

}  // namespace
}  // namespace netpoll
