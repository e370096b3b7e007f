// SPDX-License-Identifier: Apache-2.0
#include "server/fields.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <type_traits>

namespace parkway {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";

std::optional<int> HexDigit(char c) {
  const size_t at = kHex.find(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  return at == kHex.npos ? std::nullopt : std::optional<int>(static_cast<int>(at));
}

// Letters behind a backslash, and what they stand for.
constexpr std::string_view kEscapes = "rnts\\";
constexpr std::string_view kEscaped = "\r\n\t \\";

absl::StatusOr<netpoll::Endpoint> ParseOneAddress(std::string_view text) {
  absl::StatusOr<netpoll::Endpoint> address = netpoll::Endpoint::ParseAddress(text);
  if (!address.ok() && netpoll::Endpoint::Parse(text).ok()) {
    return absl::InvalidArgumentError(std::string(text) + ": an IP address without a port");
  }
  if (address.ok() && address->is_any()) {
    return absl::InvalidArgumentError(std::string(text) + ": an address of this machine, not all");
  }
  return address;
}

// The parts between commas, each once and at most `max`; none of an empty text.
template <class Parse>
auto ParseList(std::string_view text, size_t max, const char* kind, Parse parse)
    -> absl::StatusOr<std::vector<std::decay_t<decltype(*parse(text))>>> {
  std::vector<std::decay_t<decltype(*parse(text))>> items;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    auto item = parse(part);
    if (!item.ok()) return item.status();
    if (std::find(items.begin(), items.end(), *item) != items.end()) {
      return absl::InvalidArgumentError(std::string(part) + " stands there twice");
    }
    if (items.size() == max) {
      return absl::InvalidArgumentError("more than " + std::to_string(max) + " " + kind);
    }
    items.push_back(*std::move(item));
    if (part.size() == text.size()) break;
    text.remove_prefix(part.size() + 1);
    if (text.empty()) return absl::InvalidArgumentError("nothing stands behind the last comma");
  }
  return items;
}

template <class Item, class Print>
std::string FormatList(const std::vector<Item>& items, Print print) {
  std::string text;
  for (const Item& item : items) text.append(text.empty() ? "" : ",").append(print(item));
  return text;
}

}  // namespace

absl::StatusOr<int64_t> ParseCount(std::string_view text, int64_t min, int64_t max, bool or_zero) {
  const bool is_number = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  // A bound has at most 10 digits, so that 18 neither overflow nor fit.
  const int64_t number = is_number && text.size() <= 18 ? std::stoll(std::string(text)) : -1;
  if ((number >= min && number <= max) || (or_zero && number == 0)) return number;
  return absl::InvalidArgumentError("must be " + std::string(or_zero ? "0 or " : "") +
                                    "a whole number, " + std::to_string(min) + " to " +
                                    std::to_string(max));
}

absl::StatusOr<std::vector<netpoll::Endpoint>> ParseAddresses(std::string_view text, size_t max) {
  return ParseList(text, max, "addresses", ParseOneAddress);
}

std::string FormatAddresses(const std::vector<netpoll::Endpoint>& addresses) {
  return FormatList(addresses, [](const auto& address) { return address.AddressToString(); });
}

absl::StatusOr<uint8_t> ParseWords(std::string_view text, std::span<const std::string_view> names) {
  const auto parse = [&](std::string_view word) { return ParseChoice(word, names); };
  const absl::StatusOr<std::vector<int>> words = ParseList(text, names.size(), "words", parse);
  if (!words.ok()) return words.status();
  unsigned bits = 0;
  for (const int word : *words) bits |= 1U << word;
  return static_cast<uint8_t>(bits);
}

std::string FormatWords(uint8_t bits, std::span<const std::string_view> names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if ((bits >> i & 1) != 0) text.append(text.empty() ? "" : ",").append(names[i]);
  }
  return text;
}

absl::StatusOr<std::string> ParseBytes(std::string_view text) {
  const auto bad = [] {
    return absl::InvalidArgumentError(R"(after a backslash comes r, n, t, s, \ or xHH)");
  };
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      bytes += text[i];
      continue;
    }
    if (++i == text.size()) return bad();
    if (text[i] == 'x') {
      const std::string_view digits = text.substr(i + 1, 2);
      const auto high = digits.size() == 2 ? HexDigit(digits[0]) : std::nullopt;
      const auto low = digits.size() == 2 ? HexDigit(digits[1]) : std::nullopt;
      if (!high.has_value() || !low.has_value()) return bad();
      bytes += static_cast<char>(*high * 16 + *low);
      i += 2;
      continue;
    }
    const size_t escape = kEscapes.find(text[i]);
    if (escape == kEscapes.npos) return bad();
    bytes += kEscaped[escape];
  }
  return bytes;
}

std::string FormatBytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const size_t escape = kEscaped.find(c);
    const auto byte = static_cast<unsigned char>(c);
    if (escape != kEscaped.npos && c != '\\') {
      text.append({'\\', kEscapes[escape]});
    } else if (byte <= ' ' || byte > '~' || c == ';' || c == '\\') {
      // A '\' at the end of a line would go on in the next.
      text.append({'\\', 'x', kHex[byte >> 4], kHex[byte & 15]});
    } else {
      text += c;
    }
  }
  return text;
}

absl::Status internal::OutOfRange(const std::string& min, const std::string& max, bool or_zero) {
  return absl::InvalidArgumentError("must be " + std::string(or_zero ? "0 or " : "") + min +
                                    " to " + max);
}

absl::Status internal::NotNamed(std::span<const NamedSize> names, const std::string& min,
                                const std::string& max) {
  std::string all;
  for (const NamedSize& named : names) all += (all.empty() ? "" : ", ") + std::string(named.name);
  return absl::InvalidArgumentError("must be " + all + " or " + min + " to " + max);
}

absl::StatusOr<int> ParseChoice(std::string_view value, std::span<const std::string_view> names) {
  const auto found = std::find(names.begin(), names.end(), value);
  if (found != names.end()) return static_cast<int>(found - names.begin());
  std::string all;
  for (const std::string_view name : names) {
    all.append(name == names.front() ? "" : name == names.back() ? " or " : ", ").append(name);
  }
  return absl::InvalidArgumentError("must be " + all);
}

}  // namespace parkway
