// SPDX-License-Identifier: Apache-2.0
//
// Values as text and as fields of a struct: what a setting sets, within which bounds. Reading and
// printing walk the same description, so that what is printed can be read back.
#ifndef PARKWAY_SERVER_FIELDS_H_
#define PARKWAY_SERVER_FIELDS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "netpoll/endpoint.h"
#include "server/block_set.h"
#include "server/units.h"

namespace parkway {

// `or_zero`: 0 is allowed too, although below `min`.
template <class Owner>
struct BoolField {
  bool Owner::*field;
};
template <class Owner, class T>
struct CountField {
  T Owner::*field;
  T min, max;
  bool or_zero = false;
};
// An enum whose values are 0, 1, ... in the order of `names`.
template <class Owner>
struct ChoiceField {
  std::span<const std::string_view> names;
  int (*get)(const Owner&);
  void (*set)(Owner&, int);
};
template <auto member, class Owner>
constexpr ChoiceField<Owner> Choice(std::span<const std::string_view> names) {
  using Enum = std::remove_cvref_t<decltype(std::declval<Owner>().*member)>;
  return {names, [](const Owner& owner) { return static_cast<int>(owner.*member); },
          [](Owner& owner, int value) { owner.*member = static_cast<Enum>(value); }};
}
// Bytes; how they are written: ParseBytes.
template <class Owner>
struct TextField {
  std::string Owner::*field;
  size_t max;
  // What else is wrong with it; nullptr: nothing.
  absl::Status (*check)(std::string_view bytes) = nullptr;
};
template <class Owner>
struct DurationField {
  std::chrono::nanoseconds Owner::*field;
  std::chrono::nanoseconds min, max;
  bool or_zero = false;
  std::chrono::nanoseconds step = std::chrono::nanoseconds(1);
};
// A word that stands for a size.
struct NamedSize {
  std::string_view name;
  size_t bytes;
};
template <class Owner>
struct SizeField {
  size_t Owner::*field;
  size_t min, max;
  bool or_zero = false;
  size_t step = 1;
  std::span<const NamedSize> names = {};
};
// Some of `names`, separated by commas, the first of which is bit 1; empty: none.
template <class Owner>
struct WordsField {
  uint8_t Owner::*field;
  std::span<const std::string_view> names;
};
// Blocks of addresses; empty: none.
template <class Owner>
struct BlocksField {
  BlockList Owner::*field;
};
// IP addresses without a port, separated by commas, or the word client, which sets the other field;
// empty: neither.
template <class Owner>
struct SourceField {
  std::vector<netpoll::Endpoint> Owner::*addresses;
  bool Owner::*client;
  size_t max;
};
inline constexpr std::string_view kSourceIsClient = "client";
template <class Owner>
using Field =
    std::variant<BoolField<Owner>, CountField<Owner, int>, CountField<Owner, int64_t>,
                 DurationField<Owner>, SizeField<Owner>, ChoiceField<Owner>, TextField<Owner>,
                 SourceField<Owner>, BlocksField<Owner>, WordsField<Owner>>;

// A setting of `Owner`: a flag, or a key of a route.
template <class Owner>
struct Setting {
  std::string_view name;
  std::string_view placeholder;  // of the value, in --help
  Field<Owner> field;
  // It is one of a listening socket, which all routes that share it have to agree on.
  bool at_listener = false;
};

// A whole number without sign. The error says the bounds.
absl::StatusOr<int64_t> ParseCount(std::string_view text, int64_t min, int64_t max,
                                   bool or_zero = false);

// The index of `value` among the names. The error lists them.
absl::StatusOr<int> ParseChoice(std::string_view value, std::span<const std::string_view> names);

// Each once. The error names the one that is wrong.
absl::StatusOr<std::vector<netpoll::Endpoint>> ParseAddresses(std::string_view text, size_t max);
// The text from which ParseAddresses makes them.
std::string FormatAddresses(const std::vector<netpoll::Endpoint>& addresses);

// The bits of the words, of which each is one of `names`. The error names the one that is not.
absl::StatusOr<uint8_t> ParseWords(std::string_view text, std::span<const std::string_view> names);
std::string FormatWords(uint8_t bits, std::span<const std::string_view> names);

// Any bytes: \r \n \t \s (a blank) \\ \xHH, and printable ASCII for itself.
absl::StatusOr<std::string> ParseBytes(std::string_view text);
// The text from which ParseBytes makes them, without blanks and ';'.
std::string FormatBytes(std::string_view bytes);

namespace internal {

absl::Status OutOfRange(const std::string& min, const std::string& max, bool or_zero);
// Of a size that is neither within the bounds nor one of the names.
absl::Status NotNamed(std::span<const NamedSize> names, const std::string& min,
                      const std::string& max);

template <class Owner>
absl::Status Set(const BoolField<Owner>& flag, std::string_view value, Owner& owner) {
  if (value != "true" && value != "false") {
    return absl::InvalidArgumentError("must be true or false");
  }
  owner.*flag.field = value == "true";
  return absl::OkStatus();
}

template <class Owner, class T>
absl::Status Set(const CountField<Owner, T>& count, std::string_view value, Owner& owner) {
  const absl::StatusOr<int64_t> number = ParseCount(value, count.min, count.max, count.or_zero);
  if (number.ok()) owner.*count.field = static_cast<T>(*number);
  return number.status();
}

template <class Owner>
absl::Status Set(const DurationField<Owner>& bounds, std::string_view value, Owner& owner) {
  using std::chrono::nanoseconds;
  const absl::StatusOr<nanoseconds> duration = ParseDuration(value);
  if (!duration.ok()) return duration.status();
  const bool is_zero = bounds.or_zero && *duration == nanoseconds(0);
  if (!is_zero && (*duration < bounds.min || *duration > bounds.max)) {
    return OutOfRange(FormatDuration(bounds.min), FormatDuration(bounds.max), bounds.or_zero);
  }
  if (*duration % bounds.step != nanoseconds(0)) {
    return absl::InvalidArgumentError("must be a multiple of " + FormatDuration(bounds.step));
  }
  owner.*bounds.field = *duration;
  return absl::OkStatus();
}

template <class Owner>
absl::Status Set(const SizeField<Owner>& bounds, std::string_view value, Owner& owner) {
  for (const NamedSize& named : bounds.names) {
    if (value != named.name) continue;
    owner.*bounds.field = named.bytes;
    return absl::OkStatus();
  }
  const absl::StatusOr<uint64_t> bytes = ParseSize(value);
  if (!bounds.names.empty() && (!bytes.ok() || *bytes < bounds.min || *bytes > bounds.max)) {
    return NotNamed(bounds.names, FormatSize(bounds.min), FormatSize(bounds.max));
  }
  if (!bytes.ok()) return bytes.status();
  if ((*bytes < bounds.min || *bytes > bounds.max) && !(*bytes == 0 && bounds.or_zero)) {
    return OutOfRange(FormatSize(bounds.min), FormatSize(bounds.max), bounds.or_zero);
  }
  if (*bytes % bounds.step != 0) {
    return absl::InvalidArgumentError("must be a multiple of " + FormatSize(bounds.step));
  }
  owner.*bounds.field = *bytes;
  return absl::OkStatus();
}

template <class Owner>
absl::Status Set(const ChoiceField<Owner>& choice, std::string_view value, Owner& owner) {
  const absl::StatusOr<int> index = ParseChoice(value, choice.names);
  if (index.ok()) choice.set(owner, *index);
  return index.status();
}

template <class Owner>
absl::Status Set(const TextField<Owner>& text, std::string_view value, Owner& owner) {
  absl::StatusOr<std::string> bytes = ParseBytes(value);
  if (!bytes.ok()) return bytes.status();
  if (bytes->size() > text.max) {
    return absl::InvalidArgumentError("has more than " + std::to_string(text.max) + " bytes");
  }
  const absl::Status checked = text.check == nullptr ? absl::OkStatus() : text.check(*bytes);
  if (!checked.ok()) return checked;
  owner.*text.field = *std::move(bytes);
  return absl::OkStatus();
}

template <class Owner>
absl::Status Set(const SourceField<Owner>& source, std::string_view value, Owner& owner) {
  const bool is_client = value == kSourceIsClient;
  absl::StatusOr<std::vector<netpoll::Endpoint>> addresses =
      ParseAddresses(is_client ? "" : value, source.max);
  if (!addresses.ok()) return addresses.status();
  owner.*source.addresses = *std::move(addresses);
  owner.*source.client = is_client;
  return absl::OkStatus();
}

template <class Owner>
absl::Status Set(const BlocksField<Owner>& list, std::string_view value, Owner& owner) {
  absl::StatusOr<BlockList> blocks = BlockList::Parse(value);
  if (!blocks.ok()) return blocks.status();
  owner.*list.field = *std::move(blocks);
  return absl::OkStatus();
}

template <class Owner>
absl::Status Set(const WordsField<Owner>& words, std::string_view value, Owner& owner) {
  const absl::StatusOr<uint8_t> bits = ParseWords(value, words.names);
  if (bits.ok()) owner.*words.field = *bits;
  return bits.status();
}

template <class Owner>
std::string Get(const BoolField<Owner>& flag, const Owner& owner) {
  return owner.*flag.field ? "true" : "false";
}
template <class Owner, class T>
std::string Get(const CountField<Owner, T>& count, const Owner& owner) {
  return std::to_string(owner.*count.field);
}
template <class Owner>
std::string Get(const DurationField<Owner>& duration, const Owner& owner) {
  return FormatDuration(owner.*duration.field);
}
template <class Owner>
std::string Get(const SizeField<Owner>& size, const Owner& owner) {
  for (const NamedSize& named : size.names) {
    if (owner.*size.field == named.bytes) return std::string(named.name);
  }
  return FormatSize(owner.*size.field);
}
template <class Owner>
std::string Get(const ChoiceField<Owner>& choice, const Owner& owner) {
  return std::string(choice.names[static_cast<size_t>(choice.get(owner))]);
}
template <class Owner>
std::string Get(const TextField<Owner>& text, const Owner& owner) {
  return FormatBytes(owner.*text.field);
}
template <class Owner>
std::string Get(const SourceField<Owner>& source, const Owner& owner) {
  if (owner.*source.client) return std::string(kSourceIsClient);
  return FormatAddresses(owner.*source.addresses);
}
template <class Owner>
std::string Get(const BlocksField<Owner>& list, const Owner& owner) {
  return (owner.*list.field).text;
}
template <class Owner>
std::string Get(const WordsField<Owner>& words, const Owner& owner) {
  return FormatWords(owner.*words.field, words.names);
}

}  // namespace internal

// Text to field. The errors (kInvalidArgument) name only the problem; the caller knows the setting,
// its value and its place.
template <class Owner>
absl::Status SetField(const Field<Owner>& field, std::string_view value, Owner& owner) {
  return std::visit([&](const auto& it) { return internal::Set(it, value, owner); }, field);
}

// Field to text.
template <class Owner>
std::string GetField(const Field<Owner>& field, const Owner& owner) {
  return std::visit([&](const auto& it) { return internal::Get(it, owner); }, field);
}

}  // namespace parkway

#endif  // PARKWAY_SERVER_FIELDS_H_
