// SPDX-License-Identifier: Apache-2.0
#include "server/flag_scanner.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "server/suggest.h"
#include "server/text_file.h"

namespace parkway {
namespace {

constexpr std::string_view kFlagfile = "flagfile";
constexpr std::string_view kBlanks = " \t\r";

std::string_view Trim(std::string_view line) {
  const size_t begin = line.find_first_not_of(kBlanks);
  if (begin == line.npos) return "";
  return line.substr(begin, line.find_last_not_of(kBlanks) - begin + 1);
}

// "--name=value" taken apart.
struct Token {
  std::string name;  // '-' made '_', leading dashes cut
  std::optional<std::string> value;
};

// `text` starts with '-'.
Token SplitToken(std::string_view text) {
  text.remove_prefix(text.substr(0, 2) == "--" ? 2 : 1);
  const size_t equal = text.find('=');
  Token token{.name = std::string(text.substr(0, equal)), .value = std::nullopt};
  std::replace(token.name.begin(), token.name.end(), '-', '_');
  if (equal != text.npos) token.value = std::string(text.substr(equal + 1));
  return token;
}

std::optional<std::string> ParseBool(std::string_view text) {
  for (const std::string_view yes : {"true", "1", "yes"}) {
    if (text == yes) return "true";
  }
  for (const std::string_view no : {"false", "0", "no"}) {
    if (text == no) return "false";
  }
  return std::nullopt;
}

class Scanner {
 public:
  explicit Scanner(const std::vector<KnownFlag>& known) : known_(known) {}

  absl::Status ScanArguments(const std::vector<std::string>& arguments);
  std::vector<FlagSetting> TakeSettings() { return std::move(settings_); }

 private:
  using Kind = KnownFlag::Kind;

  absl::Status ScanFile(const FlagSetting& flagfile, int depth);
  absl::Status ScanLine(std::string_view line, const std::string& path, const std::string& place,
                        int depth);
  // `token` with its value, if it takes one.
  absl::Status Add(Token token, const std::string& place);
  absl::Status AddBool(size_t flag, Token token, const std::string& place);
  absl::Status UnknownFlag(const std::string& name, const std::string& place) const;

  bool TakesNextArgument(const Token& token) const;
  std::optional<size_t> Find(std::string_view name) const;
  // The bool that "noname" or "no_name" switches off.
  std::optional<size_t> FindNegated(std::string_view name) const;

  const std::vector<KnownFlag>& known_;
  std::vector<FlagSetting> settings_;
  int file_count_ = 0;
};

absl::Status Scanner::ScanArguments(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const bool is_end = argument == "--";
    if (is_end && i + 1 == arguments.size()) break;
    if (is_end || argument.size() < 2 || argument.front() != '-') {
      const std::string subject = is_end ? arguments[i + 1] : argument;
      return InvalidAt("", subject.empty() ? "\"\"" : subject,
                       "not a flag; every argument is one, such as --listen=:8080");
    }
    Token token = SplitToken(argument);
    if (TakesNextArgument(token)) {
      // No value starts with "--": this is the next flag, and a value was forgotten.
      const bool has_value = i + 1 < arguments.size() && arguments[i + 1].substr(0, 2) != "--";
      if (has_value) token.value = arguments[++i];
    }
    if (token.name == kFlagfile && token.value.has_value()) {
      const FlagSetting flagfile{.name = token.name, .value = *token.value};
      const absl::Status scanned = ScanFile(flagfile, 1);
      if (!scanned.ok()) return scanned;
      continue;
    }
    const absl::Status added = Add(std::move(token), "");
    if (!added.ok()) return added;
  }
  return absl::OkStatus();
}

absl::Status Scanner::ScanFile(const FlagSetting& flagfile, int depth) {
  if (depth > kFlagfileDepthMax) {
    return flagfile.Error("nested more than " + std::to_string(kFlagfileDepthMax) +
                          " deep; does a file include itself?");
  }
  if (++file_count_ > kFlagfileCountMax) {
    return flagfile.Error("more than " + std::to_string(kFlagfileCountMax) + " flagfiles");
  }
  const std::string& path = flagfile.value;
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return flagfile.Error(std::string(text.status().message()));

  std::string_view rest = *text;
  for (int number = 1; !rest.empty(); ++number) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    const std::string place = path + ":" + std::to_string(number);
    const absl::Status scanned = ScanLine(Trim(line), path, place, depth);
    if (!scanned.ok()) return scanned;
  }
  return absl::OkStatus();
}

absl::Status Scanner::ScanLine(std::string_view line, const std::string& path,
                               const std::string& place, int depth) {
  if (line.empty() || line.front() == '#') return absl::OkStatus();
  if (line.find('\0') != line.npos) return InvalidAt(place, "line", "holds a NUL byte");
  if (line.front() != '-') {
    return InvalidAt(place, line, "not a flag; write --name=value, or # before a comment");
  }
  Token token = SplitToken(line);
  const size_t blank = token.name.find_first_of(kBlanks);
  if (blank != token.name.npos) {
    const std::string name = token.name.substr(0, blank);
    if (!Find(name).has_value() && name != kFlagfile) return UnknownFlag(name, place);
    return InvalidAt(place, line, "in a file the value follows a '=': --" + name + "=value");
  }
  if (token.name == kFlagfile && token.value.has_value()) {
    const FlagSetting flagfile{
        .name = token.name, .value = PathBeside(path, *token.value), .place = place};
    return ScanFile(flagfile, depth + 1);
  }
  return Add(std::move(token), place);
}

absl::Status Scanner::Add(Token token, const std::string& place) {
  if (settings_.size() == kFlagCountMax) {
    return InvalidAt(place, "--" + token.name,
                     "more than " + std::to_string(kFlagCountMax) + " flags");
  }
  if (token.name == kFlagfile) {
    return InvalidAt(place, "--flagfile", "needs a value, for example --flagfile=parkway.flags");
  }
  const std::optional<size_t> negated = FindNegated(token.name);
  const std::optional<size_t> flag = Find(token.name);
  if (!flag.has_value() && negated.has_value()) return AddBool(*negated, std::move(token), place);
  if (!flag.has_value()) return UnknownFlag(token.name, place);

  switch (known_[*flag].kind) {
    case Kind::kBool:
      return AddBool(*flag, std::move(token), place);
    case Kind::kCommandLine:
      return InvalidAt(place, "--" + token.name,
                       place.empty() ? "takes no such value" : "belongs on the command line");
    case Kind::kValue:
      if (!token.value.has_value()) {
        return InvalidAt(place, "--" + token.name, "needs a value: --" + token.name + "=...");
      }
      settings_.push_back({*flag, std::move(token.name), *std::move(token.value), place});
      return absl::OkStatus();
  }
  __builtin_unreachable();
}

absl::Status Scanner::AddBool(size_t flag, Token token, const std::string& place) {
  const std::string name(known_[flag].name);
  if (token.name != name) {
    if (token.value.has_value()) return InvalidAt(place, "--" + token.name, "takes no value");
    settings_.push_back({flag, name, "false", place});
    return absl::OkStatus();
  }
  const std::optional<std::string> value = ParseBool(token.value.value_or("true"));
  if (!value.has_value()) {
    return InvalidAt(place, "--" + name + "=" + *token.value, "must be true or false");
  }
  settings_.push_back({flag, name, *value, place});
  return absl::OkStatus();
}

absl::Status Scanner::UnknownFlag(const std::string& name, const std::string& place) const {
  std::vector<std::string_view> names;
  for (const KnownFlag& flag : known_) names.push_back(flag.name);
  names.push_back(kFlagfile);
  const std::string_view nearest = Nearest(name, names);
  const std::string hint =
      nearest.empty() ? "--help lists all flags" : "did you mean --" + std::string(nearest) + "?";
  return InvalidAt(place, "--" + name, "unknown flag; " + hint);
}

bool Scanner::TakesNextArgument(const Token& token) const {
  if (token.value.has_value()) return false;
  if (token.name == kFlagfile) return true;
  const std::optional<size_t> flag = Find(token.name);
  return flag.has_value() && known_[*flag].kind == Kind::kValue;
}

std::optional<size_t> Scanner::Find(std::string_view name) const {
  const auto found = std::find_if(known_.begin(), known_.end(),
                                  [&](const KnownFlag& flag) { return flag.name == name; });
  if (found == known_.end()) return std::nullopt;
  return static_cast<size_t>(found - known_.begin());
}

std::optional<size_t> Scanner::FindNegated(std::string_view name) const {
  if (name.substr(0, 2) != "no") return std::nullopt;
  name.remove_prefix(name.substr(0, 3) == "no_" ? 3 : 2);
  const std::optional<size_t> flag = Find(name);
  return flag.has_value() && known_[*flag].kind == Kind::kBool ? flag : std::nullopt;
}

}  // namespace

absl::Status InvalidAt(std::string_view place, std::string_view subject, std::string_view problem) {
  std::string message(place);
  if (!place.empty()) message += ": ";
  message.append(subject).append(": ").append(problem);
  const auto is_control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  std::replace_if(message.begin(), message.end(), is_control, '?');
  return absl::InvalidArgumentError(message);
}

absl::Status FlagSetting::Error(std::string_view problem) const {
  // The usual reason for a '#' in a value is a comment behind it, which flagfiles do not have.
  const bool has_comment = !place.empty() && value.find('#') != value.npos;
  const std::string hint = has_comment ? " (a comment needs a line of its own)" : "";
  return InvalidAt(place, "--" + name + "=" + value, std::string(problem) + hint);
}

absl::StatusOr<std::vector<FlagSetting>> ScanFlags(const std::vector<std::string>& arguments,
                                                   const std::vector<KnownFlag>& known) {
  Scanner scanner(known);
  const absl::Status scanned = scanner.ScanArguments(arguments);
  if (!scanned.ok()) return scanned;
  return scanner.TakeSettings();
}

}  // namespace parkway
