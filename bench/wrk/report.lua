-- SPDX-License-Identifier: Apache-2.0
--
-- The line the runner reads, printed once when wrk is done. Times are in microseconds.

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "bench requests=%d errors=%d duration_us=%d p50_us=%d p99_us=%d\n",
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
