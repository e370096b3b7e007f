// SPDX-License-Identifier: Apache-2.0
#include "server/fields.h"

namespace parkway {

absl::StatusOr<int64_t> ParseCount(std::string_view text, int64_t min, int64_t max) {
  const bool is_number = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  // A bound has at most 9 digits, so that 18 neither overflow nor fit.
  const int64_t number = is_number && text.size() <= 18 ? std::stoll(std::string(text)) : -1;
  if (number >= min && number <= max) return number;
  return absl::InvalidArgumentError("must be a whole number, " + std::to_string(min) + " to " +
                                    std::to_string(max));
}

absl::Status internal::OutOfRange(const std::string& min, const std::string& max, bool or_zero) {
  return absl::InvalidArgumentError("must be " + std::string(or_zero ? "0 or " : "") + min +
                                    " to " + max);
}

}  // namespace parkway
