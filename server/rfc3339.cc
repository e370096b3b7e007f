// SPDX-License-Identifier: Apache-2.0
#include "server/rfc3339.h"

#include <chrono>
#include <cstring>

namespace parkway {
namespace {

// `value` in so many digits.
void Put(char* at, int digits, uint32_t value) {
  for (char* digit = at + digits; digit-- != at; value /= 10) {
    *digit = static_cast<char>('0' + value % 10);
  }
}

}  // namespace

char* WriteRfc3339(int64_t ns_since_1970, char* to) {
  using namespace std::chrono;  // NOLINT(google-build-using-namespace)
  const sys_time<nanoseconds> at{nanoseconds(ns_since_1970)};
  const sys_days day = floor<days>(at);
  const year_month_day date(day);
  const hh_mm_ss<microseconds> time(floor<microseconds>(at - day));
  std::memcpy(to, "0000-00-00T00:00:00.000000Z", kRfc3339Bytes);
  Put(to, 4, static_cast<uint32_t>(static_cast<int>(date.year())));
  Put(to + 5, 2, static_cast<unsigned>(date.month()));
  Put(to + 8, 2, static_cast<unsigned>(date.day()));
  Put(to + 11, 2, static_cast<uint32_t>(time.hours().count()));
  Put(to + 14, 2, static_cast<uint32_t>(time.minutes().count()));
  Put(to + 17, 2, static_cast<uint32_t>(time.seconds().count()));
  Put(to + 20, 6, static_cast<uint32_t>(time.subseconds().count()));
  return to + kRfc3339Bytes;
}

}  // namespace parkway
