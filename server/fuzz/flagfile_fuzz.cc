// SPDX-License-Identifier: Apache-2.0
//
// Flagfiles: the bytes are up to three files, parted by lines of "%%" and called a, b and c, so
// that they can name one another; the daemon's own parser is told to read a. The lines of a are
// also given to it as a command line.
#include <gflags/gflags.h>  // tidy: requires that a parse leaves in the registry what it should
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"
#include "server/config.h"
#include "server/route_config.h"

namespace parkway {
namespace {

using netpoll::Endpoint;
using sched::testing::HoldsControl;
using sched::testing::Require;
using namespace std::chrono_literals;  // NOLINT(google-build-using-namespace)

constexpr size_t kFileCount = 3;
using Files = std::array<std::string, kFileCount>;

// Where the files lie; removed at the end.
class Folder {
 public:
  Folder() {
    const char* tests = std::getenv("TEST_TMPDIR");
    const std::filesystem::path parent =
        tests != nullptr ? tests : std::filesystem::temp_directory_path();
    path_ = parent / "flagfile_fuzz_XXXXXX";
    Require(mkdtemp(path_.data()) != nullptr, "there is room for files", path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }

  std::string File(size_t index) const { return path_ + "/" + static_cast<char>('a' + index); }

  void Write(size_t index, std::string_view text) const {
    std::ofstream file(File(index), std::ios::binary | std::ios::trunc);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    file.close();
    Require(file.good(), "a file is written", File(index));
  }

 private:
  std::string path_;
};

const Folder& TheFolder() {
  static const Folder folder;
  return folder;
}

std::vector<std::string> LinesOf(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    lines.emplace_back(line);
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  return lines;
}

Files Split(std::string_view text) {
  Files files;
  size_t index = 0;
  for (const std::string& line : LinesOf(text)) {
    if (line == "%%" && index + 1 < kFileCount) {
      ++index;
    } else {
      files[index] += line + "\n";
    }
  }
  if (!text.ends_with('\n') && !files[index].empty()) files[index].pop_back();
  return files;
}

// Whether a file elsewhere might be opened, which would be read, or waited for.
bool NamesForeignFiles(const std::string& line) {
  const bool names_file = line.find("flagfile") != line.npos || line.find("routes") != line.npos;
  return names_file && line.find('/') != line.npos;
}

// A world of one name per kind of answer.
absl::StatusOr<std::vector<Endpoint>> FakeResolve(std::string_view text) {
  absl::StatusOr<Endpoint> numeric = Endpoint::Parse(text);
  if (numeric.ok()) return std::vector<Endpoint>{*numeric};
  const auto at = [](std::string_view address) { return *Endpoint::Parse(address); };
  if (text == "localhost:80") return std::vector<Endpoint>{at("[::1]:80"), at("127.0.0.1:80")};
  if (text == "pair:80") return std::vector<Endpoint>{at("10.0.0.1:80"), at("10.0.0.2:80")};
  if (text.starts_with("name.test:")) return absl::NotFoundError("for a name server to say");
  return numeric.status();
}

absl::StatusOr<ParseResult> Parse(const std::vector<std::string>& arguments, std::ostream& out) {
  std::vector<const char*> argv = {"parkway"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data(), out,
                          {&FakeResolve, &FakeResolve});
}

// name=value of each flag of config.cc, as gflags has them now.
std::vector<std::string> Registry() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    std::vector<gflags::CommandLineFlagInfo> all;
    gflags::GetAllFlags(&all);
    for (const gflags::CommandLineFlagInfo& flag : all) {
      if (flag.filename.ends_with("server/config.cc")) found.push_back(flag.name);
    }
    return found;
  }();
  std::vector<std::string> values;
  values.reserve(names.size());
  for (const std::string& name : names) {
    values.push_back(name + "=" + gflags::GetCommandLineFlagInfoOrDie(name.c_str()).current_value);
  }
  return values;
}

std::string Help() {
  std::ostringstream out;
  (void)Parse({"--help=all"}, out);  // answers with text, and cannot fail
  return out.str();
}

std::string Joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// ---- What holds of a good configuration.

template <class T>
void RequireWithin(T value, T min, T max, bool or_zero, std::string_view flag) {
  Require((or_zero && value == T{}) || (value >= min && value <= max),
          "a value is within the documented bounds", flag);
}

void CheckOptions(const RouteOptions& options) {
  RequireWithin(options.backlog, 1, 1'000'000, false, "backlog");
  RequireWithin<std::chrono::nanoseconds>(options.connect_timeout, 1ms, 1h, false, "connect");
  RequireWithin<std::chrono::nanoseconds>(options.idle_timeout, 1ms, 8760h, true, "idle");
  RequireWithin<std::chrono::nanoseconds>(options.half_close_timeout, 1ms, 8760h, true, "half");
  RequireWithin<std::chrono::nanoseconds>(options.reset_linger, 0s, 1min, false, "reset_linger");
  RequireWithin<std::chrono::nanoseconds>(options.keepalive_idle, 1s, 32767s, true, "keepalive");
  Require(options.keepalive_idle % 1s == 0s, "the kernel counts keepalive in seconds", "");
  RequireWithin(options.hash_balance_factor, 101, 10'000, true, "hash_balance_factor");
  RequireWithin(options.connect_retries, 0, kConnectRetriesMax, false, "connect_retries");
  RequireWithin(options.max_queue, 0, 1'000'000, false, "max_queue");
  RequireWithin<std::chrono::nanoseconds>(options.queue_timeout, 1ms, 1h, false, "queue_timeout");
  RequireWithin<std::chrono::nanoseconds>(options.health_interval, 10ms, 1h, false, "interval");
  RequireWithin<std::chrono::nanoseconds>(options.health_timeout, 1ms, 1h, false, "timeout");
  RequireWithin<std::chrono::nanoseconds>(options.slow_start, 100ms, 1h, true, "slow_start");
  RequireWithin(options.health_rise, 1, 100, false, "health_rise");
  RequireWithin(options.health_fall, 1, 100, false, "health_fall");
  RequireWithin(options.health_port, 0, 65535, false, "health_port");
  for (const std::string* text : {&options.health_path, &options.health_host}) {
    Require(!HoldsControl(*text) && text->find(' ') == std::string::npos, "it fits a line of HTTP",
            *text);
  }
  Require(options.health_path.starts_with('/'), "a path begins with /", options.health_path);
  RequireWithin(options.log_sample, 1, 1'000'000, false, "log_sample");
  RequireWithin<std::chrono::nanoseconds>(options.backend_keepalive_idle, 1s, 32767s, true, "idle");
  Require(options.backend_keepalive_idle % 1s == 0s, "the kernel counts keepalive in seconds", "");
  RequireWithin<std::chrono::nanoseconds>(options.user_timeout, 1ms, 24h, true, "user_timeout");
  Require(options.user_timeout % 1ms == 0s, "the kernel counts it in milliseconds", "");
  RequireWithin<std::chrono::nanoseconds>(options.defer_accept, 1s, 1h, true, "defer_accept");
  Require(options.defer_accept % 1s == 0s, "the kernel counts it in seconds", "");
  RequireWithin<int64_t>(options.mark, 0, UINT32_MAX, false, "mark");
  RequireWithin(options.rcvbuf, size_t{4} << 10, size_t{256} << 20, true, "rcvbuf");
  RequireWithin(options.sndbuf, size_t{4} << 10, size_t{256} << 20, true, "sndbuf");
  RequireWithin(options.fastopen, 0, 1'000'000, false, "fastopen");
  Require(options.congestion.size() < 16, "the kernel takes the name", options.congestion);
  RequireWithin<int64_t>(options.listener_max_conns, 0, 100'000'000, false, "listener_max_conns");
  RequireWithin(options.listener_conn_rate, 0, 1'000'000, false, "listener_conn_rate");
  RequireWithin(options.bandwidth, size_t{1} << 10, size_t{1} << 40, true, "bandwidth");
  RequireWithin(options.route_bandwidth, size_t{1} << 10, size_t{1} << 40, true, "route_bandwidth");
  RequireWithin(options.source_max_conns, 0, 1'000'000, false, "source_max_conns");
  RequireWithin(options.source_conn_rate, 0, 1'000'000, false, "source_conn_rate");
  RequireWithin<std::chrono::nanoseconds>(options.handshake_timeout, 1ms, 1h, false, "handshake");
  Require(options.send_proxy_tlvs < 8, "there are three words", "");
  Require(options.source.size() <= kSourcesMax, "there are not too many sources", "");
  Require(options.source.empty() || !options.source_is_client, "they are ours or the client's", "");
  for (const Endpoint& source : options.source) {
    Require(!source.is_unix() && !source.is_any() && source.port() == 0, "it can be bound to",
            source.ToString());
  }
}

void CheckBounds(const Config& config) {
  CheckOptions(config.defaults);
  RequireWithin<int64_t>(config.max_conns, 0, 100'000'000, false, "max_conns");
  RequireWithin(config.max_conn_rate, 0, 1'000'000, false, "max_conn_rate");
  RequireWithin(config.buffer_memory, size_t{64} << 10, size_t{1} << 40, false, "buffer_memory");
  RequireWithin(config.splice_memory, size_t{512} << 10, size_t{1} << 40, true, "splice_memory");
  if (config.memory_budget != kMemoryBudgetOfGroup) {
    RequireWithin(config.memory_budget, size_t{1} << 20, size_t{1} << 40, true, "memory_budget");
  }
  for (const std::string* target : {&config.log, &config.access_log}) {
    Require(!target->empty() && !HoldsControl(*target), "a log goes somewhere", *target);
  }
  RequireWithin<std::chrono::nanoseconds>(config.access_log_progress, 1s, 24h, true, "progress");
  RequireWithin(config.workers, 0, 1024, false, "workers");
  RequireWithin<std::chrono::nanoseconds>(config.stall_report, 0s, 1min, false, "stall_report");
  RequireWithin<std::chrono::nanoseconds>(config.spin, 0s, 1ms, false, "spin");
  RequireWithin(config.stack_size, size_t{16} << 10, size_t{16} << 20, false, "stack_size");
  Require(config.stack_size % 4096 == 0, "a stack has whole pages", "stack_size");
  RequireWithin<std::chrono::nanoseconds>(config.drain_timeout, 0s, 24h, false, "drain_timeout");
}

void CheckRoute(const Route& route, bool trial) {
  Require(!route.name.empty() && route.name.size() <= kRouteNameMax, "a route has a name", "");
  Require(!route.listen.empty(), "a route listens somewhere", route.name);
  Require(route.backends.empty() == (route.is_local() || trial), "a route has backends or echoes",
          "");
  for (const Listen& listen : route.listen) {
    Require(!listen.at.empty() && !listen.text.empty(), "a name has an address", route.name);
  }
  for (const Backend& backend : route.backends) {
    Require(!backend.at.empty() && !backend.text.empty(), "a name has an address", route.name);
    RequireWithin(backend.weight, 0, kWeightMax, false, "weight");
    RequireWithin(backend.max, 0, kBackendSessionsMax, false, "max");
    for (const Endpoint& at : backend.at) {
      Require(!at.is_any() && (at.is_unix() || at.port() != 0), "a backend can be connected to",
              at.ToString());
    }
  }
  CheckOptions(route.options);
}

void CheckRoutes(const Config& config) {
  Require(!config.routes.empty() && config.routes.size() <= kRoutesMax, "there are routes", "");
  Require(!config.embedded_backends || config.routes.size() == 1, "a trial has one route", "");
  for (const Route& route : config.routes) CheckRoute(route, config.embedded_backends);
}

// What config.cc promises of the registry after a good parse.
void CheckRegistry(const Config& config) {
  const std::vector<std::string> registry = Registry();
  for (const std::string& flag : ToFlags(config)) {
    const std::string_view setting = std::string_view(flag).substr(2);
    // Of routes the registry holds what was given, which may be written in another way.
    const std::string_view name = setting.substr(0, setting.find('='));
    if (name == "listen" || name == "backend" || name == "route" || name == "mode") continue;
    const bool is_there =
        std::find(registry.begin(), registry.end(), std::string(setting)) != registry.end();
    Require(is_there, "the registry holds the effective value", flag);
  }
}

void CheckPrinting(const Config& config) {
  const std::string text = Joined(ToFlags(config));
  TheFolder().Write(0, text);
  std::ostringstream out;
  const absl::StatusOr<ParseResult> again = Parse({"--flagfile=" + TheFolder().File(0)}, out);
  Require(again.ok() && again->config == config, "printed flags are read back", text);
}

void CheckGood(const Config& config) {
  CheckBounds(config);
  CheckRoutes(config);
  CheckRegistry(config);
  CheckPrinting(config);
}

// ---- What holds of an error.

std::string Normal(std::string_view line) {
  std::string text(line);
  for (char& c : text) {
    if (sched::testing::IsControl(c)) c = '?';
    if (c == '-') c = '_';
  }
  return text;
}

// The part of an error behind its place: it names a flag that stands in `line`, or repeats it.
void CheckSubject(std::string_view subject, const std::string& line, std::string_view message) {
  if (subject == "line: holds a NUL byte") {
    Require(line.find('\0') != line.npos, "a line said to hold NUL does", message);
    return;
  }
  if (subject.starts_with("column ") && line.find("column ") == line.npos) {
    const size_t column = std::stoul(std::string(subject.substr(sizeof "column " - 1)));
    Require(column >= 1 && column <= line.size() + 1, "an error names a column of its line",
            message);
    return;
  }
  while (subject.starts_with('-')) subject.remove_prefix(1);
  const std::string name = Normal(subject.substr(0, subject.find_first_of("=: ")));
  Require(Normal(line).find(name) != std::string::npos, "an error is about its line", message);
}

void CheckError(const absl::Status& status) {
  const std::string message(status.message());
  Require(status.code() == absl::StatusCode::kInvalidArgument, "it is an invalid argument",
          message);
  Require(!message.empty() && !HoldsControl(message), "an error is one line", message);
  Require(message.find(": ") != message.npos, "an error says what is wrong", message);
}

// ... and names the file, and a line of it.
void CheckFileError(const absl::Status& status, const Files& files) {
  CheckError(status);
  const std::string_view message(status.message().data(), status.message().size());
  for (size_t i = 0; i < kFileCount; ++i) {
    const std::string place = TheFolder().File(i) + ":";
    if (!message.starts_with(place)) continue;
    const std::string_view rest = message.substr(place.size());
    const std::string number(rest.substr(0, rest.find(':')));
    const std::vector<std::string> lines = LinesOf(files[i]);
    Require(!number.empty() && number.find_first_not_of("0123456789") == number.npos &&
                std::stoul(number) >= 1 && std::stoul(number) <= lines.size(),
            "an error names a line of the file", message);
    CheckSubject(rest.substr(number.size() + 2), lines[std::stoul(number) - 1], message);
    return;
  }
  Require(false, "an error names its file", message);
}

// ---- The two ways in.

absl::StatusOr<ParseResult> ParseAndCheckRegistry(const std::vector<std::string>& arguments,
                                                  std::ostream& out) {
  const std::vector<std::string> before = Registry();
  absl::StatusOr<ParseResult> result = Parse(arguments, out);
  const bool took = result.ok() && result->action == ParseResult::Action::kRun;
  Require(took || Registry() == before, "what is refused changes nothing", Joined(arguments));
  return result;
}

void CheckFiles(const Files& files) {
  for (size_t i = 0; i < kFileCount; ++i) TheFolder().Write(i, files[i]);
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result =
      ParseAndCheckRegistry({"--flagfile=" + TheFolder().File(0)}, out);
  Require(out.str().empty(), "a file prints nothing", out.str());
  if (!result.ok()) {
    CheckFileError(result.status(), files);
    return;
  }
  Require(result->action == ParseResult::Action::kRun, "a file asks no question", files[0]);
  CheckGood(result->config);
}

void CheckArguments(const std::vector<std::string>& arguments) {
  std::ostringstream out;
  const absl::StatusOr<ParseResult> result = ParseAndCheckRegistry(arguments, out);
  const bool was_asked = result.ok() && result->action == ParseResult::Action::kExit;
  Require(was_asked == !out.str().empty(), "only a question is answered", Joined(arguments));
  if (!result.ok()) CheckError(result.status());
  if (result.ok() && !was_asked) CheckGood(result->config);
}

// What a parse without flags makes of the process.
struct Blank {
  Blank() {
    std::ostringstream out;
    const absl::StatusOr<ParseResult> trial = Parse({}, out);
    Require(trial.ok(), "no flags are good flags", "");
    config = trial->config;
    registry = Registry();
    help = Help();
  }
  friend bool operator==(const Blank&, const Blank&) = default;

  Config config;
  std::vector<std::string> registry;
  std::string help;
};

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace parkway;  // NOLINT(google-build-using-namespace)
  const std::string_view text = sched::testing::TextOf(data, size);
  const std::vector<std::string> lines = LinesOf(text);
  if (std::any_of(lines.begin(), lines.end(), NamesForeignFiles)) return 0;

  static const Blank first;
  CheckFiles(Split(text));
  // A file named on a command line may lie anywhere, and NUL ends an argument.
  const bool is_safe = text.find("flagfile") == text.npos && text.find("routes") == text.npos &&
                       text.find('\0') == text.npos;
  if (is_safe) CheckArguments(lines);
  Require(Blank() == first, "each parse starts anew", text);
  return 0;
}
