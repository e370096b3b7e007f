// SPDX-License-Identifier: Apache-2.0
#include "server/fields.h"

#include <algorithm>
#include <cctype>
#include <optional>

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
  std::vector<netpoll::Endpoint> addresses;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    const absl::StatusOr<netpoll::Endpoint> address = ParseOneAddress(part);
    if (!address.ok()) return address.status();
    if (std::find(addresses.begin(), addresses.end(), *address) != addresses.end()) {
      return absl::InvalidArgumentError(std::string(part) + " stands there twice");
    }
    if (addresses.size() == max) {
      return absl::InvalidArgumentError("more than " + std::to_string(max) + " addresses");
    }
    addresses.push_back(*address);
    if (part.size() == text.size()) break;
    text.remove_prefix(part.size() + 1);
    if (text.empty()) return absl::InvalidArgumentError("an address is missing behind the comma");
  }
  return addresses;
}

std::string FormatAddresses(const std::vector<netpoll::Endpoint>& addresses) {
  std::string text;
  for (const netpoll::Endpoint& address : addresses) {
    text.append(text.empty() ? "" : ",").append(address.AddressToString());
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
