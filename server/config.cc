// SPDX-License-Identifier: Apache-2.0
//
// One table, kFlags, says which flag sets which field within which bounds; reading, printing and
// --help all walk it. gflags is the registry: it holds names, help, defaults and, after parsing,
// the effective values.
#include "server/config.h"

#include <gflags/gflags.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "server/flag_scanner.h"
#include "server/units.h"
#include "server/version.h"

// The first sentence of each help stands in --help, all of it in --help=all.

DEFINE_string(mode, "proxy",
              "What a connection gets: a backend, or its own bytes back. "
              "proxy is the daemon's work; echo is for tests and measurements.");
DEFINE_string(listen, "127.0.0.1:8080",
              "Where to accept; repeat the flag for more addresses. "
              "127.0.0.1:80, [::1]:80, [fe80::1%eth0]:80, :80 (every address, IPv4 and IPv6), "
              "name:80, unix:/path or unix:@abstract; with port 0 the kernel chooses one. The "
              "default is a loopback address so that nothing is exposed unasked. Every address "
              "costs a listening socket per worker.");
DEFINE_string(backend, "",
              "Where to relay to; repeat the flag, connections take turns. "
              "HOST:PORT or unix:/path. A name is resolved once, at start, and stands for all "
              "its addresses; for its IPv4 ones alone if it has both kinds, since a server often "
              "listens on those alone. There is no default, except that without --mode, --listen "
              "and --backend two built-in echo backends stand in. More backends cost nothing "
              "until they are used.");

DEFINE_int64(max_conns, 0,
             "Most client connections at a time; 0 derives it. "
             "In connections, 0 to 100000000. The default takes what RLIMIT_NOFILE allows, which "
             "is printed at start; at the limit new clients wait in the kernel's queue. Raising "
             "it costs a descriptor per echo connection and two per proxied one, and the "
             "kernel's socket buffers of each.");
DEFINE_int32(backlog, 4096,
             "Connections the kernel may hold before they are accepted. "
             "Per listening socket, 1 to 1000000; the kernel cuts it to net.core.somaxconn, "
             "whose default is the same 4096: enough for a burst while a worker is busy. Raising "
             "it costs kernel memory in a burst, and lets clients wait longer before they see "
             "that the daemon is overloaded.");
DEFINE_string(connect_timeout, "5s",
              "Longest wait for a backend to accept. "
              "A duration, 1ms to 1h. 5s outlasts two lost packets (the kernel repeats after 1s "
              "and 3s). Raising it holds the clients of a dead backend, and two descriptors for "
              "each, for as long.");
DEFINE_string(idle_timeout, "1h",
              "Ends a connection that is silent in both directions; 0 never. "
              "A duration, 0 or 1ms to 8760h. 1h outlasts the pauses of database pools and still "
              "ends what a vanished client left behind. Raising it keeps the descriptors of "
              "forgotten connections longer.");
DEFINE_string(half_close_timeout, "60s",
              "Ends a half-closed connection that moves no bytes; 0 never. "
              "A duration, 0 or 1ms to 8760h, counted from the last byte after one side has "
              "finished sending, so that long answers are not cut. 60s is a patient client's "
              "pause. Raising it keeps the descriptors of connections whose other side never "
              "finishes; with 0 --idle_timeout still holds.");
DEFINE_string(reset_linger, "1s",
              "How long the end of a connection waits for what is on its way. "
              "A duration, 0 to 1m: a reset destroys what the receiver has not taken yet, so it "
              "waits until that is delivered, at most this long; and whoever is ended by a timeout "
              "or a drain has this long to finish too. 1s suits slow links. Raising it keeps the "
              "descriptors of ended connections longer, and drains by as much, if peers neither "
              "read nor finish; 0 waits for nobody.");
DEFINE_string(keepalive_idle, "60s",
              "Silence before TCP keepalive probes the client; 0 never. "
              "A duration in whole seconds, 0 or 1s to 32767s. 60s stays below the forgetting "
              "times of common firewalls. Raising it finds dead clients later; lowering it sends "
              "more packets on idle connections. Backends are not probed: --idle_timeout ends the "
              "sessions of one that has vanished.");
DEFINE_string(buffer_memory, "64MiB",
              "Bound of the memory for bytes on their way, all together. "
              "A size, 64KiB to 1TiB: what slow receivers have not taken yet; idle connections "
              "hold none. 64MiB is enough for a thousand slow receivers. When it is used up, bytes "
              "stay with the sender's kernel until the receiver takes them, which costs a system "
              "call more per turn. Raising it costs that much memory at worst.");

DEFINE_string(splice_memory, "64MiB",
              "Bound of the pipes for large flows; 0 copies all. "
              "A size, 0 or 512KiB to 1TiB, in pipes of 512KiB. A flow that comes faster than "
              "copying moves it is spliced: it stays inside the kernel, at half the CPU time or "
              "less. Each worker uses one pipe, and each such flow with a slow receiver another; "
              "without one, bytes are copied. 64MiB is what Linux grants an ordinary user "
              "(pipe-user-pages-soft). Of the open files pipes take at most a 32nd. Raising it "
              "costs that much kernel memory at worst.");

DEFINE_int32(workers, 0,
             "Threads that serve connections; 0 takes one per usable CPU. "
             "A count, 0 to 1024. Usable are the CPUs of the affinity mask, at most the cgroup's "
             "CPU quota. More workers than CPUs cost switches between them and gain nothing.");
DEFINE_bool(pin_cpus, false,
            "Binds every worker to a CPU of its own. "
            "true or false. Off, since it helps only where the machine is the daemon's own; "
            "elsewhere a pinned worker waits for its CPU while others are free.");
DEFINE_string(stall_report, "10ms",
              "Reports a worker that one fiber keeps for longer; 0 never. "
              "A duration, 0 to 1m. The report, at most one per second on "
              "stderr, names the function it is in: a bug, or a host that starves the process. "
              "Raise it where the host does.");
DEFINE_string(spin, "50us",
              "How long a worker looks for work at most before it sleeps. "
              "A duration, 0 to 1ms; 0 sleeps at once. Waking a sleeping CPU takes tens of "
              "microseconds, most of the latency of a connection that is served alone. So where "
              "a worker has one busy connection, which is answered sooner than this, it does not "
              "sleep; else it does, also when other threads need the CPU, or when there is but "
              "one. Raising it burns a CPU for slower lone connections.");
DEFINE_string(stack_size, "64KiB",
              "Address space of each fiber's stack. "
              "A size in whole 4KiB pages, 16KiB to 16MiB. Only touched pages take memory, so "
              "64KiB is ample and costs one page. Raising it costs address space, not memory; "
              "leave it alone unless a stack overflow was reported.");
DEFINE_string(drain_timeout, "30s",
              "How long SIGTERM lets connections end by themselves. "
              "A duration, 0 to 24h; 0 closes them at once. 30s is what container platforms "
              "grant before they kill. Raising it delays the end of the process, so raise the "
              "supervisor's stop timeout with it.");

namespace parkway {
namespace {

using netpoll::Endpoint;
using std::chrono::nanoseconds;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

constexpr std::string_view kDefaultListen = "127.0.0.1:8080";

// What a flag sets, and within which bounds. `or_zero`: 0 is allowed too, although below `min`.
struct ModeField {};
struct AddressesField {
  std::vector<std::string> Config::*text;
};
struct BoolField {
  bool Config::*field;
};
template <class T>
struct CountField {
  T Config::*field;
  T min, max;
};
struct DurationField {
  nanoseconds Config::*field;
  nanoseconds min, max;
  bool or_zero = false;
  nanoseconds step = 1ns;
};
struct SizeField {
  size_t Config::*field;
  size_t min, max;
  bool or_zero = false;
  size_t step = 1;
};
using Field = std::variant<ModeField, AddressesField, BoolField, CountField<int>,
                           CountField<int64_t>, DurationField, SizeField>;

enum class Topic { kServes, kLimits, kProcess };

struct Flag {
  std::string_view name;
  Topic topic;
  std::string_view placeholder;  // of the value, in --help
  Field field;
};

constexpr size_t kKiB = 1 << 10;

// In the order of --help.
const Flag kFlags[] = {
    {"mode", Topic::kServes, "proxy|echo", ModeField{}},
    {"listen", Topic::kServes, "ADDRESS", AddressesField{&Config::listen_text}},
    {"backend", Topic::kServes, "ADDRESS", AddressesField{&Config::backend_text}},

    {"max_conns", Topic::kLimits, "COUNT", CountField<int64_t>{&Config::max_conns, 0, 100'000'000}},
    {"backlog", Topic::kLimits, "COUNT", CountField<int>{&Config::backlog, 1, 1'000'000}},
    {"connect_timeout", Topic::kLimits, "DURATION",
     DurationField{&Config::connect_timeout, 1ms, 1h}},
    {"idle_timeout", Topic::kLimits, "DURATION",
     DurationField{&Config::idle_timeout, 1ms, 8760h, /*or_zero=*/true}},
    {"half_close_timeout", Topic::kLimits, "DURATION",
     DurationField{&Config::half_close_timeout, 1ms, 8760h, /*or_zero=*/true}},
    {"reset_linger", Topic::kLimits, "DURATION", DurationField{&Config::reset_linger, 0s, 1min}},
    // TCP_KEEPIDLE counts in seconds and ends at 32767.
    {"keepalive_idle", Topic::kLimits, "DURATION",
     DurationField{&Config::keepalive_idle, 1s, 32767s, /*or_zero=*/true, /*step=*/1s}},
    {"buffer_memory", Topic::kLimits, "SIZE",
     SizeField{&Config::buffer_memory, 64 * kKiB, kKiB* kKiB* kKiB* kKiB}},
    {"splice_memory", Topic::kLimits, "SIZE",
     SizeField{&Config::splice_memory, 512 * kKiB, kKiB* kKiB* kKiB* kKiB, /*or_zero=*/true}},

    {"workers", Topic::kProcess, "COUNT", CountField<int>{&Config::workers, 0, 1024}},
    {"pin_cpus", Topic::kProcess, "", BoolField{&Config::pin_cpus}},
    {"stall_report", Topic::kProcess, "DURATION", DurationField{&Config::stall_report, 0s, 1min}},
    {"spin", Topic::kProcess, "DURATION", DurationField{&Config::spin, 0s, 1ms}},
    {"stack_size", Topic::kProcess, "SIZE",
     SizeField{&Config::stack_size, 16 * kKiB, 16 * kKiB* kKiB, /*or_zero=*/false,
               /*step=*/4 * kKiB}},
    {"drain_timeout", Topic::kProcess, "DURATION", DurationField{&Config::drain_timeout, 0s, 24h}},
};

constexpr KnownFlag kCommandLineFlags[] = {
    {"help", KnownFlag::Kind::kCommandLine},
    {"version", KnownFlag::Kind::kCommandLine},
};

std::vector<KnownFlag> KnownFlags() {
  std::vector<KnownFlag> known;
  for (const Flag& flag : kFlags) {
    const bool is_bool = std::holds_alternative<BoolField>(flag.field);
    known.push_back({flag.name, is_bool ? KnownFlag::Kind::kBool : KnownFlag::Kind::kValue});
  }
  known.insert(known.end(), std::begin(kCommandLineFlags), std::end(kCommandLineFlags));
  return known;
}

// ---- Values: text to field. The errors name only the problem; the caller adds flag, value and
// place.

absl::Status OutOfRange(const std::string& min, const std::string& max, bool or_zero) {
  return absl::InvalidArgumentError("must be " + std::string(or_zero ? "0 or " : "") + min +
                                    " to " + max);
}

absl::Status SetField(const ModeField&, const std::string& value, Config& config) {
  if (value != "proxy" && value != "echo") {
    return absl::InvalidArgumentError("must be proxy or echo");
  }
  config.mode = value == "echo" ? Mode::kEcho : Mode::kProxy;
  return absl::OkStatus();
}

absl::Status SetField(const AddressesField& addresses, const std::string& value, Config& config) {
  (config.*addresses.text).push_back(value);
  return absl::OkStatus();
}

absl::Status SetField(const BoolField& flag, const std::string& value, Config& config) {
  config.*flag.field = value == "true";
  return absl::OkStatus();
}

template <class T>
absl::Status SetField(const CountField<T>& count, const std::string& value, Config& config) {
  const bool is_number = !value.empty() && value.find_first_not_of("0123456789") == value.npos;
  // A bound has at most 9 digits, so that 18 neither overflow nor fit.
  const int64_t number = is_number && value.size() <= 18 ? std::stoll(value) : -1;
  if (number < count.min || number > count.max) {
    return absl::InvalidArgumentError("must be a whole number, " + std::to_string(count.min) +
                                      " to " + std::to_string(count.max));
  }
  config.*count.field = static_cast<T>(number);
  return absl::OkStatus();
}

absl::Status SetField(const DurationField& bounds, const std::string& value, Config& config) {
  const absl::StatusOr<nanoseconds> duration = ParseDuration(value);
  if (!duration.ok()) return duration.status();
  const bool is_zero = bounds.or_zero && *duration == 0ns;
  if (!is_zero && (*duration < bounds.min || *duration > bounds.max)) {
    return OutOfRange(FormatDuration(bounds.min), FormatDuration(bounds.max), bounds.or_zero);
  }
  if (*duration % bounds.step != 0ns) {
    return absl::InvalidArgumentError("must be a multiple of " + FormatDuration(bounds.step));
  }
  config.*bounds.field = *duration;
  return absl::OkStatus();
}

absl::Status SetField(const SizeField& bounds, const std::string& value, Config& config) {
  const absl::StatusOr<uint64_t> bytes = ParseSize(value);
  if (!bytes.ok()) return bytes.status();
  if ((*bytes < bounds.min || *bytes > bounds.max) && !(*bytes == 0 && bounds.or_zero)) {
    return OutOfRange(FormatSize(bounds.min), FormatSize(bounds.max), bounds.or_zero);
  }
  if (*bytes % bounds.step != 0) {
    return absl::InvalidArgumentError("must be a multiple of " + FormatSize(bounds.step));
  }
  config.*bounds.field = *bytes;
  return absl::OkStatus();
}

// ---- Field to text: several for a repeatable flag.

std::vector<std::string> GetField(const ModeField&, const Config& config) {
  return {config.mode == Mode::kEcho ? "echo" : "proxy"};
}
std::vector<std::string> GetField(const AddressesField& addresses, const Config& config) {
  return config.*addresses.text;
}
std::vector<std::string> GetField(const BoolField& flag, const Config& config) {
  return {config.*flag.field ? "true" : "false"};
}
template <class T>
std::vector<std::string> GetField(const CountField<T>& count, const Config& config) {
  return {std::to_string(config.*count.field)};
}
std::vector<std::string> GetField(const DurationField& duration, const Config& config) {
  return {FormatDuration(config.*duration.field)};
}
std::vector<std::string> GetField(const SizeField& size, const Config& config) {
  return {FormatSize(config.*size.field)};
}

std::vector<std::string> Values(const Flag& flag, const Config& config) {
  return std::visit([&](const auto& field) { return GetField(field, config); }, flag.field);
}

// ---- Rules between flags.

// What was given under one name, in order.
std::vector<const FlagSetting*> Given(const std::vector<FlagSetting>& settings,
                                      std::string_view name) {
  std::vector<const FlagSetting*> given;
  for (const FlagSetting& setting : settings) {
    if (setting.name == name) given.push_back(&setting);
  }
  return given;
}

absl::Status CheckCombination(const Config& config, const std::vector<FlagSetting>& settings) {
  const auto listen = Given(settings, "listen");
  const auto backend = Given(settings, "backend");
  const auto mode = Given(settings, "mode");
  if (config.mode == Mode::kEcho && !backend.empty()) {
    return backend.front()->Error("--mode=echo has no backends; drop one of the two");
  }
  const bool needs_backend = config.mode == Mode::kProxy && backend.empty();
  constexpr std::string_view kNoBackend =
      "no --backend to relay to; add --backend=HOST:PORT, or --mode=echo to answer itself";
  if (needs_backend && !listen.empty()) return listen.front()->Error(kNoBackend);
  if (needs_backend && !mode.empty()) return mode.back()->Error(kNoBackend);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Endpoint>> ResolveAddress(const FlagSetting& setting,
                                                     ResolveFunction* resolve) {
  const auto is_control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  if (std::any_of(setting.value.begin(), setting.value.end(), is_control)) {
    return setting.Error("address holds a control character");
  }
  absl::StatusOr<std::vector<Endpoint>> found = resolve(setting.value);
  if (!found.ok()) {
    const bool is_list = setting.value.find(',') != setting.value.npos;
    if (is_list) return setting.Error("one address per flag; repeat --" + setting.name);
    // The message starts with the text, which Error() puts there too.
    std::string problem(found.status().message());
    const std::string text = (setting.value.empty() ? "\"\"" : setting.value) + ": ";
    if (problem.compare(0, text.size(), text) == 0) problem.erase(0, text.size());
    return setting.Error(problem);
  }
  // No flagfile could say so: the blanks at the end of a line are not part of the value.
  if (setting.value.ends_with(' ')) return setting.Error("address ends in a space");
  // localhost is ::1 and 127.0.0.1, and most servers listen on the latter alone: taking turns
  // between the two would refuse every second connection.
  const auto is_ipv4 = [](const Endpoint& endpoint) { return endpoint.family() == AF_INET; };
  if (std::any_of(found->begin(), found->end(), is_ipv4)) {
    std::erase_if(*found, std::not_fn(is_ipv4));
  }
  return found;
}

// Whether a socket bound to `wide` also gets what is sent to `narrow`. Of the wildcards and of
// equal addresses only: which addresses the machine has is not known here.
bool Covers(const Endpoint& wide, const Endpoint& narrow) {
  if (wide == narrow) return true;
  if (!wide.is_any() || wide.port() != narrow.port()) return false;
  const bool same_family = wide.family() == narrow.family() && !narrow.dual_stack();
  return narrow.is_any() && (wide.dual_stack() || same_family);
}

absl::Status ResolveListen(const std::vector<FlagSetting>& settings, ResolveFunction* resolve,
                           Config& config) {
  FlagSetting fallback{.name = "listen", .value = std::string(kDefaultListen)};
  std::vector<const FlagSetting*> given = Given(settings, "listen");
  if (given.empty()) {
    given = {&fallback};
    config.listen_text = {fallback.value};
  }
  for (const FlagSetting* setting : given) {
    const absl::StatusOr<std::vector<Endpoint>> found = ResolveAddress(*setting, resolve);
    if (!found.ok()) return found.status();
    for (const Endpoint& endpoint : *found) {
      // SO_REUSEPORT would let the second one bind, and the kernel would deal connections to both.
      // Port 0 is a new port each time.
      const bool may_repeat = !endpoint.is_unix() && endpoint.port() == 0;
      const auto clashes = [&](const Endpoint& other) {
        return Covers(other, endpoint) || Covers(endpoint, other);
      };
      if (!may_repeat && std::any_of(config.listen.begin(), config.listen.end(), clashes)) {
        return setting->Error("an earlier --listen has this address already");
      }
      config.listen.push_back(endpoint);
    }
  }
  return absl::OkStatus();
}

absl::Status ResolveBackends(const std::vector<FlagSetting>& settings, ResolveFunction* resolve,
                             Config& config) {
  for (const FlagSetting* setting : Given(settings, "backend")) {
    const absl::StatusOr<std::vector<Endpoint>> found = ResolveAddress(*setting, resolve);
    if (!found.ok()) return found.status();
    for (const Endpoint& endpoint : *found) {
      if (endpoint.is_any())
        return setting->Error("name the host to connect to, such as 127.0.0.1");
      if (!endpoint.is_unix() && endpoint.port() == 0) {
        return setting->Error("a backend's port must be 1-65535");
      }
      const auto is_own = [&](const Endpoint& listen) {
        const bool wildcard = listen.is_any() && listen.port() == endpoint.port() &&
                              (listen.dual_stack() || listen.family() == endpoint.family());
        return listen == endpoint || (wildcard && endpoint.is_loopback());
      };
      if (std::any_of(config.listen.begin(), config.listen.end(), is_own)) {
        return setting->Error("a --listen has this address: the daemon would connect to itself");
      }
      config.backends.push_back(endpoint);
    }
  }
  return absl::OkStatus();
}

// ---- gflags, --help and --version.

gflags::CommandLineFlagInfo Info(const Flag& flag) {
  return gflags::GetCommandLineFlagInfoOrDie(std::string(flag.name).c_str());
}

// Leaves the effective values in the registry, also those that are the defaults: a process may
// parse again.
absl::Status Publish(const Config& config) {
  for (const Flag& flag : kFlags) {
    std::string text;
    for (const std::string& value : Values(flag, config)) text += (text.empty() ? "" : ",") + value;
    if (gflags::SetCommandLineOption(std::string(flag.name).c_str(), text.c_str()).empty()) {
      return absl::InternalError("gflags refuses --" + std::string(flag.name) + "=" + text);
    }
  }
  return absl::OkStatus();
}

std::string_view Title(Topic topic) {
  switch (topic) {
    case Topic::kServes:
      return "What it serves";
    case Topic::kLimits:
      return "Limits and timeouts";
    case Topic::kProcess:
      return "Process";
  }
  __builtin_unreachable();
}

// Indented by 6, at most 96 columns.
void PrintWrapped(std::string_view text, std::ostream& out) {
  constexpr size_t kWidth = 90;
  while (!text.empty()) {
    const size_t space = text.size() <= kWidth ? text.npos : text.rfind(' ', kWidth);
    const std::string_view line = text.substr(0, space);
    out << "      " << line << "\n";
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
}

// `long_text` stands on lines of its own, `short_text` behind the flag.
void PrintFlag(std::string usage, std::string_view short_text, std::string_view long_text,
               std::ostream& out) {
  constexpr size_t kColumn = 39;
  usage = "  --" + usage;
  if (!long_text.empty()) {
    out << usage << "\n";
    PrintWrapped(long_text, out);
    return;
  }
  usage.resize(std::max(kColumn, usage.size() + 1), ' ');
  out << usage << short_text << "\n";
}

// "name=PLACEHOLDER (default)"
std::string Usage(const Flag& flag) {
  const std::string default_value = Info(flag).default_value;
  std::string usage(flag.name);
  if (!flag.placeholder.empty()) usage.append("=").append(flag.placeholder);
  return usage + (default_value.empty() ? "" : " (" + default_value + ")");
}

void PrintHelp(bool all, std::ostream& out) {
  out << "Parkway " << kVersion << ": a TCP proxy and echo daemon.\n"
      << "\n"
      << "  parkway --listen=:6379 --backend=10.0.0.1:6379 --backend=10.0.0.2:6379\n"
      << "  parkway --mode=echo --listen=127.0.0.1:7000\n"
      << "  parkway        a trial: relays 127.0.0.1:8080 to two echo backends of its own\n";
  std::optional<Topic> topic;
  for (const Flag& flag : kFlags) {
    if (topic != flag.topic) out << "\n" << Title(flag.topic) << "\n";
    topic = flag.topic;
    const std::string help = Info(flag).description;
    PrintFlag(Usage(flag), help.substr(0, help.find(". ")), all ? help : "", out);
  }
  const auto print = [&](std::string usage, std::string_view help) {
    PrintFlag(std::move(usage), help, all ? help : "", out);
  };
  print("flagfile=FILE", "Reads flags from a file, one --name=value per line");
  print("version", "Prints the version");
  print("help, --help=all", "Prints this page, or each flag with its bounds and reasons");
  out << "\nDefaults stand in parentheses.\n"
      << "Durations are written 500ms, 1.5s, 2m or 1h30m, sizes 512B, 64KiB or 1MiB.\n"
      << "SIGTERM drains and ends, a second SIGTERM ends at once. Bad flags exit with 2.\n";
}

// Answers --help and --version, wherever they stand: whoever asks for help may have the rest wrong.
bool AnswerQuestion(const std::vector<std::string>& arguments, std::ostream& out) {
  for (std::string_view argument : arguments) {
    if (argument == "--") return false;
    if (argument.substr(0, 2) == "--") argument.remove_prefix(1);
    if (argument == "-version") {
      out << "parkway " << kVersion << "\n";
      return true;
    }
    if (argument == "-h" || argument == "-help" || argument == "-help=all") {
      PrintHelp(/*all=*/argument == "-help=all", out);
      return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<ParseResult> ParseCommandLine(int argc, const char* const* argv, std::ostream& out,
                                             ResolveFunction* resolve) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  ParseResult result;
  if (AnswerQuestion(arguments, out)) {
    result.action = ParseResult::Action::kExit;
    return result;
  }
  const absl::StatusOr<std::vector<FlagSetting>> settings = ScanFlags(arguments, KnownFlags());
  if (!settings.ok()) return settings.status();

  Config& config = result.config;
  for (const FlagSetting& setting : *settings) {
    const absl::Status set =
        std::visit([&](const auto& field) { return SetField(field, setting.value, config); },
                   kFlags[setting.flag].field);
    if (!set.ok()) return setting.Error(std::string(set.message()));
  }
  absl::Status status = CheckCombination(config, *settings);
  if (status.ok()) status = ResolveListen(*settings, resolve, config);
  if (status.ok()) status = ResolveBackends(*settings, resolve, config);
  config.embedded_backends = config.mode == Mode::kProxy && config.backends.empty();
  if (status.ok()) status = Publish(config);
  if (!status.ok()) return status;
  return result;
}

std::vector<std::string> ToFlags(const Config& config) {
  std::vector<std::string> lines;
  for (const Flag& flag : kFlags) {
    // Naming any of these would end the trial run.
    if (config.embedded_backends && flag.topic == Topic::kServes) continue;
    for (const std::string& value : Values(flag, config)) {
      lines.push_back("--" + std::string(flag.name) + "=" + value);
    }
  }
  return lines;
}

}  // namespace parkway
