// SPDX-License-Identifier: Apache-2.0
#include "server/rfc3339.h"

#include <chrono>

#include "server/digits.h"

namespace parkway {

char* WriteRfc3339(int64_t ns_since_1970, char* to) {
  using namespace std::chrono;  // NOLINT(google-build-using-namespace)
  const sys_time<nanoseconds> at{nanoseconds(ns_since_1970)};
  const sys_days day = floor<days>(at);
  const year_month_day date(day);
  const auto us = static_cast<uint64_t>(floor<microseconds>(at - day).count());
  const auto year = static_cast<uint32_t>(static_cast<int>(date.year()));
  const auto second = static_cast<uint32_t>(us / 1'000'000);
  const auto part = static_cast<uint32_t>(us % 1'000'000);
  to = WriteTwoDigits(year / 100, to);
  to = WriteTwoDigits(year % 100, to);
  *to++ = '-';
  to = WriteTwoDigits(static_cast<unsigned>(date.month()), to);
  *to++ = '-';
  to = WriteTwoDigits(static_cast<unsigned>(date.day()), to);
  *to++ = 'T';
  to = WriteTwoDigits(second / 3600, to);
  *to++ = ':';
  to = WriteTwoDigits(second / 60 % 60, to);
  *to++ = ':';
  to = WriteTwoDigits(second % 60, to);
  *to++ = '.';
  to = WriteTwoDigits(part / 10'000, to);
  to = WriteTwoDigits(part / 100 % 100, to);
  to = WriteTwoDigits(part % 100, to);
  *to++ = 'Z';
  return to;
}

}  // namespace parkway
