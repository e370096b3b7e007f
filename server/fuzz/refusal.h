// SPDX-License-Identifier: Apache-2.0
//
// What must hold of the error for a text that is no duration or no size.
#ifndef PARKWAY_SERVER_FUZZ_REFUSAL_H_
#define PARKWAY_SERVER_FUZZ_REFUSAL_H_

#include <string_view>

#include "absl/status/status.h"
#include "sched/testing/fuzz.h"

namespace parkway {

inline void RequireRefusal(const absl::Status& status, std::string_view text) {
  using sched::testing::HoldsControl;
  using sched::testing::Require;
  const std::string_view message(status.message().data(), status.message().size());
  Require(status.code() == absl::StatusCode::kInvalidArgument, "bad text is an invalid argument",
          text);
  Require(!message.empty(), "an error says what is wrong", text);
  Require(HoldsControl(text) || !HoldsControl(message), "an error is one line", message);
}

}  // namespace parkway

#endif  // PARKWAY_SERVER_FUZZ_REFUSAL_H_
