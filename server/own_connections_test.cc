// SPDX-License-Identifier: Apache-2.0
#include "server/own_connections.h"

#include <gtest/gtest.h>

#include <utility>

#include "netpoll/endpoint.h"

namespace parkway {
namespace {

using netpoll::CompactEndpoint;
using netpoll::Endpoint;
using End = OwnConnections::End;
using Note = OwnConnections::Note;

CompactEndpoint At(const char* text) { return CompactEndpoint(*Endpoint::Parse(text)); }

class OwnConnectionsTest : public testing::Test {
 protected:
  const CompactEndpoint from_ = At("10.0.0.1:40000");
  const CompactEndpoint to_ = At("192.0.2.1:80");
  OwnConnections own_{/*seed=*/7};
};

TEST_F(OwnConnectionsTest, WhoComesSecondIsTold) {
  for (const auto& [first, second] :
       {std::pair(End::kAccepted, End::kMade), std::pair(End::kMade, End::kAccepted)}) {
    Note a, b;
    EXPECT_TRUE(own_.Enter(first, from_, to_, a));
    EXPECT_FALSE(own_.Enter(second, from_, to_, b));
  }
}

TEST_F(OwnConnectionsTest, OthersAreOthers) {
  Note made;
  EXPECT_TRUE(own_.Enter(End::kMade, from_, to_, made));
  for (const auto& [from, to] :
       {std::pair(At("10.0.0.1:40001"), to_), std::pair(At("10.0.0.2:40000"), to_),
        std::pair(from_, At("192.0.2.1:81")), std::pair(from_, At("192.0.2.2:80")),
        std::pair(to_, from_)}) {
    Note accepted;
    EXPECT_TRUE(own_.Enter(End::kAccepted, from, to, accepted));
  }
  Note same;
  EXPECT_FALSE(own_.Enter(End::kAccepted, At("[::ffff:10.0.0.1]:40000"), to_, same));
}

TEST_F(OwnConnectionsTest, ANoteIsForgottenWithItsEnd) {
  {
    Note made;
    EXPECT_TRUE(own_.Enter(End::kMade, from_, to_, made));
    Note moved = std::move(made);
  }
  Note accepted;
  EXPECT_TRUE(own_.Enter(End::kAccepted, from_, to_, accepted));
  accepted = Note();
  Note made;
  EXPECT_TRUE(own_.Enter(End::kMade, from_, to_, made));
}

// A session that ends late, while its client's port is in use again.
TEST_F(OwnConnectionsTest, OneMayLinger) {
  Note late, next;
  EXPECT_TRUE(own_.Enter(End::kAccepted, from_, to_, late));
  EXPECT_TRUE(own_.Enter(End::kAccepted, from_, to_, next));
  late = Note();
  Note made;
  EXPECT_FALSE(own_.Enter(End::kMade, from_, to_, made));
  next = Note();
  Note again;
  EXPECT_TRUE(own_.Enter(End::kMade, from_, to_, again));
}

}  // namespace
}  // namespace parkway
