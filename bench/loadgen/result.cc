// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/result.h"

#include <cstdio>

#include "bench/loadgen/options.h"

namespace loadgen {
namespace {

std::string Field(const char* name, double value) {
  char text[80];
  (void)snprintf(text, sizeof text, "\"%s\": %.10g", name, value);
  return text;
}

std::string Join(std::initializer_list<std::string> fields) {
  std::string text;
  for (const std::string& field : fields) text += (text.empty() ? "" : ", ") + field;
  return "{" + text + "}";
}

std::string Count(const char* name, int64_t value) {
  return "\"" + std::string(name) + "\": " + std::to_string(value);
}

}  // namespace

void Result::Restart(int64_t now) {
  const Errors kept = errors;
  *this = Result();
  errors = kept;
  started = now;
}

std::string ToJson(const Result& result, const Options& options) {
  const auto us = [&](const char* name, int64_t ns) {
    return Field(name, static_cast<double>(ns) / 1e3);
  };
  const std::string latency = Join({
      Field("mean", result.latency.mean() / 1e3),
      us("p50", result.latency.Percentile(50)),
      us("p90", result.latency.Percentile(90)),
      us("p99", result.latency.Percentile(99)),
      us("p99.9", result.latency.Percentile(99.9)),
      us("max", result.latency.max()),
  });
  const std::string errors = Join({
      Count("connect", result.errors.connect),
      Count("reset", result.errors.reset),
      Count("early_end", result.errors.early_end),
      Count("wrong_bytes", result.errors.wrong),
      Count("timeout", result.errors.timeout),
  });
  return Join({
      "\"mode\": \"" + options.mode_name + "\"",
      Count("connections_at_a_time", options.connections),
      Count("size", static_cast<int64_t>(options.size)),
      Count("answer", static_cast<int64_t>(options.answer)),
      Count("depth", options.depth),
      Count("reuse", static_cast<int64_t>(options.reuse)),
      Field("rate", options.rate),
      Field("seconds", result.seconds()),
      Count("requests", result.requests),
      Count("connections", result.connections),
      Count("sent", result.sent),
      Count("received", result.received),
      Count("missed", result.missed),
      "\"latency_us\": " + latency,
      "\"errors\": " + errors,
  });
}

}  // namespace loadgen
