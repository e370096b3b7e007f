// SPDX-License-Identifier: Apache-2.0
#include "bench/loadgen/options.h"

#include <arpa/inet.h>
#include <gflags/gflags.h>  // tidy: the one file of this program that reads flags

#include <cstdio>
#include <cstdlib>

#include "bench/loadgen/pattern.h"

DEFINE_string(mode, "requests",
              "requests: answers awaited; up, down, both: bulk; sink, source, answers: the servers "
              "for up, down and requests with --answer");
DEFINE_string(address, "", "IPv4 address and port of the target, or where a server listens");
DEFINE_int32(connections, 64, "how many at a time");
DEFINE_uint64(size, 0,
              "bytes per request, or per write in bulk, at most 262139; 0: 64, in bulk 262139");
DEFINE_uint64(answer, 0,
              "bytes per answer, at most 262139, from a server of --mode=answers with the same "
              "sizes; 0: the request comes back");
DEFINE_int32(depth, 1, "requests under way on each connection");
DEFINE_int64(reuse, 0,
             "requests of a connection, after which a new one is opened, and the latency of its "
             "first request counts from its connect; 0: connections are kept");
DEFINE_double(rate, 0,
              "requests per second over all connections, whose latency counts from the instant "
              "they were due; 0: each follows its predecessor's answer");
DEFINE_bool(poisson, false, "with --rate: random gaps instead of equal ones");
DEFINE_double(seconds, 3, "how long is measured");
DEFINE_double(warmup, 0.3, "seconds before that, not counted");
DEFINE_double(timeout, 5, "seconds until a connect or an answer has failed");
DEFINE_bool(verify, true, "compares every byte; off: bulk bytes are dropped in the kernel");
DEFINE_bool(spin, false, "never sleeps: its own waking is no part of the latencies");

namespace loadgen {
namespace {

constexpr struct {
  const char* name;
  Mode mode;
} kModes[] = {{"requests", Mode::kRequests}, {"up", Mode::kUp},     {"down", Mode::kDown},
              {"both", Mode::kBoth},         {"sink", Mode::kSink}, {"source", Mode::kSource},
              {"answers", Mode::kAnswers}};

[[noreturn]] void Refuse(const std::string& flag, const std::string& value, const char* why) {
  (void)fprintf(stderr, "loadgen: --%s=%s: %s\n", flag.c_str(), value.c_str(), why);
  exit(2);
}

void RequireWithin(const char* flag, double value, double least, double most) {
  if (value >= least && value <= most) return;
  char why[80];
  (void)snprintf(why, sizeof why, "must be %g to %g", least, most);
  char text[40];
  (void)snprintf(text, sizeof text, "%g", value);
  Refuse(flag, text, why);
}

Mode ModeNamed(const std::string& name) {
  for (const auto& [known, mode] : kModes) {
    if (name == known) return mode;
  }
  Refuse("mode", name, "must be requests, up, down, both, sink, source or answers");
}

size_t DefaultSize(Mode mode) {
  return mode == Mode::kRequests || mode == Mode::kAnswers ? 64 : Pattern::kPeriod;
}

sockaddr_in AddressOf(const std::string& text) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  const size_t colon = text.rfind(':');
  char* end = nullptr;
  const std::string port = colon == std::string::npos ? "" : text.substr(colon + 1);
  const unsigned long number = strtoul(port.c_str(), &end, 10);
  if (port.empty() || *end != '\0' || number > 65535 ||
      inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    Refuse("address", text, "must be like 127.0.0.1:7000");
  }
  address.sin_port = htons(static_cast<uint16_t>(number));
  return address;
}

}  // namespace

Options ParseCommandLine(int argc, char** argv) {
  gflags::SetUsageMessage("makes load for TCP servers and measures them; see its README.md");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (argc > 1) {
    (void)fprintf(stderr, "loadgen: %s: not a flag\n", argv[1]);
    exit(2);
  }
  RequireWithin("connections", FLAGS_connections, 1, 100'000);
  RequireWithin("size", static_cast<double>(FLAGS_size), 0, Pattern::kPeriod);
  RequireWithin("answer", static_cast<double>(FLAGS_answer), 0, Pattern::kPeriod);
  RequireWithin("depth", FLAGS_depth, 1, 1024);
  RequireWithin("reuse", static_cast<double>(FLAGS_reuse), 0, 1e9);
  RequireWithin("rate", FLAGS_rate, 0, 1e7);
  RequireWithin("seconds", FLAGS_seconds, 0.01, 86'400);
  RequireWithin("warmup", FLAGS_warmup, 0, 3600);
  RequireWithin("timeout", FLAGS_timeout, 0.01, 3600);
  Options options;
  options.mode = ModeNamed(FLAGS_mode);
  options.mode_name = FLAGS_mode;
  options.address = AddressOf(FLAGS_address);
  options.connections = FLAGS_connections;
  options.size = FLAGS_size > 0 ? FLAGS_size : DefaultSize(options.mode);
  options.answer = FLAGS_answer;
  options.depth = FLAGS_depth;
  options.reuse = static_cast<uint64_t>(FLAGS_reuse);
  options.rate = FLAGS_rate;
  options.poisson = FLAGS_poisson;
  options.seconds = FLAGS_seconds;
  options.warmup = FLAGS_warmup;
  options.timeout = FLAGS_timeout;
  options.verify = FLAGS_verify;
  options.spin = FLAGS_spin;
  if (options.rate > 0 && options.mode != Mode::kRequests) {
    Refuse("rate", std::to_string(options.rate), "is for --mode=requests");
  }
  if (options.mode == Mode::kAnswers && options.answer == 0) {
    Refuse("answer", "0", "--mode=answers has to know how much it is");
  }
  return options;
}

}  // namespace loadgen
