// SPDX-License-Identifier: Apache-2.0
#include "netpoll/local_address.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "netpoll/endpoint.h"
#include "netpoll/kernel.h"

namespace netpoll {
namespace {

Endpoint At(const char* text) { return *Endpoint::Parse(text); }

TEST(LocalAddressTest, LoopbackIsLocalAndDocumentationIsNot) {
  const Kernel kernel;
  for (const char* const text : {"127.0.0.1:80", "127.1.2.3:80"}) {
    EXPECT_TRUE(MayBeLocal(kernel, At(text))) << text;
    EXPECT_TRUE(IsLocal(kernel, At(text))) << text;
  }
  for (const char* const text : {"192.0.2.1:80", "[2001:db8::1]:80"}) {
    EXPECT_FALSE(IsLocal(kernel, At(text))) << text;
  }
}

// Whoever has no descriptor must not lose backends for it, nor connect clients to itself.
TEST(LocalAddressTest, WhatCannotBeKnownIsSaidToBeSafe) {
  const Kernel kernel;
  const rlimit before = [] {
    rlimit limit = {};
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    return limit;
  }();
  const rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool may_be = MayBeLocal(kernel, At("192.0.2.1:80"));
  const bool is = IsLocal(kernel, At("127.0.0.1:80"));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(may_be);
  EXPECT_FALSE(is);
}

}  // namespace
}  // namespace netpoll
