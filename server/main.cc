// SPDX-License-Identifier: Apache-2.0
//
// parkway: a TCP proxy and echo daemon. Exit codes: 0 after a clean drain, 1 if sessions had to be
// closed, 2 for bad configuration.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/debugging/symbolize.h"
#include "sched/host.h"
#include "server/config.h"
#include "server/dns_resolver.h"
#include "server/log_sink.h"
#include "server/logs.h"
#include "server/server.h"

namespace {

constexpr int kBadConfiguration = 2;

int Complain(const absl::Status& status) {
  std::cerr << "parkway: " << std::string(status.message()) << "\n";
  return kBadConfiguration;
}

// Some supervisors start daemons without them; then a client's socket would get such a number, and
// what is reported would be sent to the client.
void OpenStandardStreams() {
  int fd;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

sigset_t Block(std::initializer_list<int> numbers) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : numbers) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// To stderr, of which nobody may read: then it is lost, and not waited for.
void Say(const std::string& lines) {
  std::string_view rest = lines;
  (void)(*parkway::OpenLogSink("stderr", 0))->Write(rest);
}

parkway::DnsResolver::Options DnsOptionsOf(const parkway::Config& config) {
  return {.servers = config.dns_servers,
          .timeout = config.dns_timeout,
          .tries = config.dns_tries,
          .family = config.dns_family};
}

parkway::Platform PlatformOf(parkway::Logs& logs, parkway::Resolver& resolver) {
  parkway::Platform platform;
  platform.resolver = &resolver;
  platform.report = [&logs](const std::string& line) { logs.Report(line); };
  if (logs.has_access_log()) {
    platform.access_log = [&logs](std::string_view lines) { logs.Access(lines); };
  }
  return platform;
}

}  // namespace

int main(int argc, char** argv) {
  OpenStandardStreams();
  // A peer that is gone, or a file at its limit, is an error of the call.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  (void)Block({SIGHUP, SIGUSR1, SIGUSR2});  // which wait until it serves, instead of ending it
  absl::InitializeSymbolizer(argv[0]);
  const absl::StatusOr<parkway::ParseResult> parsed =
      parkway::ParseCommandLine(argc, argv, std::cout);
  if (!parsed.ok()) return Complain(parsed.status());
  if (parsed->action == parkway::ParseResult::Action::kExit) return 0;

  // Taken by a thread of their own; the workers inherit the mask.
  const sigset_t signals = Block({SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2});
  const absl::StatusOr<std::unique_ptr<parkway::Logs>> logs =
      parkway::Logs::Open(parsed->config.log, parsed->config.access_log);
  if (!logs.ok()) return Complain(logs.status());
  parkway::DnsResolver resolver(DnsOptionsOf(parsed->config));
  const absl::StatusOr<std::unique_ptr<parkway::Server>> server =
      parkway::Server::Start(parsed->config, PlatformOf(**logs, resolver));
  if (!server.ok()) return Complain(server.status());
  Say((*server)->Banner());

  // SIGUSR2 is how this process tells the thread that it is not needed any more. Sent by others it
  // means nothing.
  std::atomic<bool> ended{false};
  auto stopper =
      sched::Host::Real().StartThread("signals", -1, [&]() -> std::optional<sched::Deadline> {
        int number = 0;
        sigwait(&signals, &number);
        if (number == SIGHUP) {
          (*server)->RequestReload();
        } else if (number == SIGUSR1) {
          (*logs)->Reopen();
        } else if (number != SIGUSR2) {
          (*server)->RequestStop();
        } else if (ended.load(std::memory_order_acquire)) {
          return std::nullopt;
        }
        return sched::kLongAgo;
      });
  const bool drained = (*server)->Run([&]() -> absl::StatusOr<parkway::Config> {
    const absl::StatusOr<parkway::ParseResult> again =
        parkway::ParseCommandLine(argc, argv, std::cout);
    if (!again.ok()) return again.status();
    return again->config;
  });
  ended.store(true, std::memory_order_release);
  kill(getpid(), SIGUSR2);
  stopper.reset();
  (void)(*logs)->Drain();  // so that the summary comes last
  Say((*server)->Summary() + (*logs)->Losses());
  return drained ? 0 : 1;
}
