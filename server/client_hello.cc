// SPDX-License-Identifier: Apache-2.0
#include "server/client_hello.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace parkway {
namespace {

// --- Numbers, the highest byte first, and vectors, which begin with their length in bytes.

// REQUIRES: its `size` bytes are there.
size_t NumberAt(size_t at, size_t size, std::string_view bytes) {
  size_t number = 0;
  for (const char byte : bytes.substr(at, size)) {
    number = number << 8 | static_cast<unsigned char>(byte);
  }
  return number;
}

// Cuts a number. None if there are fewer bytes.
std::optional<size_t> TakeNumber(size_t size, std::string_view& bytes) {
  if (bytes.size() < size) return std::nullopt;
  const size_t number = NumberAt(0, size, bytes);
  bytes.remove_prefix(size);
  return number;
}

// Cuts a vector. None if `bytes` end in the middle of it.
std::optional<std::string_view> TakeVector(size_t length_size, std::string_view& bytes) {
  const std::optional<size_t> size = TakeNumber(length_size, bytes);
  if (!size || *size > bytes.size()) return std::nullopt;
  const std::string_view vector = bytes.substr(0, *size);
  bytes.remove_prefix(*size);
  return vector;
}

// The vector that `bytes` are from end to end.
std::optional<std::string_view> OnlyVector(size_t length_size, std::string_view bytes) {
  const std::optional<std::string_view> vector = TakeVector(length_size, bytes);
  return bytes.empty() ? vector : std::nullopt;
}

// --- Extensions.

constexpr size_t kExtensionServerName = 0;
constexpr size_t kExtensionAlpn = 16;
constexpr size_t kNameTypeHost = 0;
constexpr size_t kHostNameMax = 255;
constexpr size_t kProtocolsMax = 64;

// It goes into logs and comparisons.
bool IsForHostName(char c) { return c > ' ' && c <= '~'; }

char LowerAscii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// "example.com" of "Example.COM.". Empty: it is no name.
std::string ReadHostName(std::string_view name) {
  if (name.size() > kHostNameMax) return "";
  if (!std::all_of(name.begin(), name.end(), IsForHostName)) return "";
  if (name.ends_with('.')) name.remove_suffix(1);
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), LowerAscii);
  return lower;
}

// A list of names, each with its type. Of a type to come no more is known than that a length stands
// there too (RFC 6066, 3).
bool ReadServerName(std::string_view body, ClientHello& hello) {
  std::optional<std::string_view> names = OnlyVector(2, body);
  if (!names || !hello.server_name.empty()) return false;
  while (!names->empty()) {
    const std::optional<size_t> type = TakeNumber(1, *names);
    const std::optional<std::string_view> name = TakeVector(2, *names);
    if (!type || !name) return false;
    if (*type != kNameTypeHost) continue;
    if (!hello.server_name.empty()) return false;
    hello.server_name = ReadHostName(*name);
    if (hello.server_name.empty()) return false;
  }
  return !hello.server_name.empty();
}

// A protocol's name is any bytes.
bool ReadProtocols(std::string_view body, ClientHello& hello) {
  std::optional<std::string_view> names = OnlyVector(2, body);
  if (!names || names->empty() || !hello.protocols.empty()) return false;
  while (!names->empty()) {
    const std::optional<std::string_view> name = TakeVector(1, *names);
    if (!name || name->empty() || hello.protocols.size() == kProtocolsMax) return false;
    hello.protocols.emplace_back(*name);
  }
  return true;
}

bool ReadExtensions(std::string_view extensions, ClientHello& hello) {
  while (!extensions.empty()) {
    const std::optional<size_t> type = TakeNumber(2, extensions);
    const std::optional<std::string_view> body = TakeVector(2, extensions);
    if (!type || !body) return false;
    if (*type == kExtensionServerName && !ReadServerName(*body, hello)) return false;
    if (*type == kExtensionAlpn && !ReadProtocols(*body, hello)) return false;
  }
  return true;
}

// --- The message.

constexpr size_t kTlsMajor = 3;  // of SSL 3.0 to TLS 1.3
constexpr size_t kRandomSize = 32;
constexpr size_t kSessionIdMax = 32;

// `body` is what follows the message's type and length. Without extensions it ends early.
bool ReadHelloBody(std::string_view body, ClientHello& hello) {
  const std::optional<size_t> major = TakeNumber(1, body);
  if (major != kTlsMajor || body.size() < 1 + kRandomSize) return false;
  body.remove_prefix(1 + kRandomSize);  // the minor version too
  const std::optional<std::string_view> session_id = TakeVector(1, body);
  const std::optional<std::string_view> cipher_suites = TakeVector(2, body);
  const std::optional<std::string_view> compressions = TakeVector(1, body);
  if (!session_id || session_id->size() > kSessionIdMax) return false;
  if (!cipher_suites || cipher_suites->empty() || cipher_suites->size() % 2 != 0) return false;
  if (!compressions || compressions->empty()) return false;
  if (body.empty()) return true;
  const std::optional<std::string_view> extensions = OnlyVector(2, body);
  return extensions && ReadExtensions(*extensions, hello);
}

// --- Records: a type, a version and the length of what they carry of the message.

constexpr size_t kTypeHandshake = 22;
constexpr size_t kRecordMajorAt = 1;
constexpr size_t kRecordLengthAt = 3;
constexpr size_t kRecordHeaderSize = 5;
constexpr size_t kFragmentMax = 1 << 14;
constexpr size_t kTypeClientHello = 1;
constexpr size_t kMessageHeaderSize = 4;

// `bytes` begin with the header, or as much of it as there is. Any minor version will do: servers
// accept "{03,XX}" (RFC 5246, E.1). A fragment of a handshake is not empty (RFC 8446, 5.1).
HelloProblem CheckRecordHeader(std::string_view bytes) {
  if (!bytes.empty() && NumberAt(0, 1, bytes) != kTypeHandshake) return HelloProblem::kNotTls;
  if (bytes.size() > kRecordMajorAt && NumberAt(kRecordMajorAt, 1, bytes) != kTlsMajor) {
    return HelloProblem::kNotTls;
  }
  if (bytes.size() < kRecordHeaderSize) return HelloProblem::kIncomplete;
  const size_t length = NumberAt(kRecordLengthAt, 2, bytes);
  return length == 0 || length > kFragmentMax ? HelloProblem::kMalformed : HelloProblem::kNone;
}

// The least that carries as many bytes of a message.
size_t RecordHeadersFor(size_t size) {
  return (size + kFragmentMax - 1) / kFragmentMax * kRecordHeaderSize;
}

// What has come of the fragment in the record at `at`. REQUIRES: its header is there.
std::string_view FragmentAt(size_t at, std::string_view bytes) {
  return bytes.substr(at + kRecordHeaderSize, NumberAt(at + kRecordLengthAt, 2, bytes));
}

// The message in the records with which a connection begins. It is joined only when it is whole: a
// client that sends it by the byte would have it copied as often.
class HelloMessage {
 public:
  explicit HelloMessage(std::string_view bytes) : bytes_(bytes) {}

  // kNone: it is whole.
  HelloProblem Check() {
    for (size_t at = 0;;) {
      const HelloProblem header = CheckRecordHeader(bytes_.substr(at));
      // The first record has said that this is TLS.
      if (header == HelloProblem::kNotTls && at > 0) return HelloProblem::kMalformed;
      if (header != HelloProblem::kNone) return header;
      const size_t length = NumberAt(at + kRecordLengthAt, 2, bytes_);
      const HelloProblem problem = CheckFragment(at, length);
      at += kRecordHeaderSize + length;
      if (problem != HelloProblem::kIncomplete || at > bytes_.size()) return problem;
    }
  }

  // What follows its type and length. REQUIRES: it is whole.
  std::string_view Body() {
    std::string_view message = FragmentAt(0, bytes_);
    if (message.size() < size_) {
      Join();
      message = joined_;
    }
    return message.substr(kMessageHeaderSize, size_ - kMessageHeaderSize);
  }

 private:
  // The record at `at` carries `length` bytes, as soon as they come.
  HelloProblem CheckFragment(size_t at, size_t length) {
    const std::string_view fragment = FragmentAt(at, bytes_);
    const size_t before = carried_;
    carried_ += fragment.size();
    if (size_ == 0) {
      const HelloProblem start = ReadStart(fragment);
      if (start != HelloProblem::kNone) return start;
    }
    const size_t rest = size_ - before;
    const size_t behind = rest - std::min(rest, length);
    // Or later, in smaller records.
    const size_t end = at + kRecordHeaderSize + rest + RecordHeadersFor(behind);
    if (end > kClientHelloMax) return HelloProblem::kTooLong;
    return carried_ < size_ ? HelloProblem::kIncomplete : HelloProblem::kNone;
  }

  // The type and the length may lie in several fragments too.
  HelloProblem ReadStart(std::string_view fragment) {
    start_ += fragment.substr(0, kMessageHeaderSize - start_.size());
    if (!start_.empty() && NumberAt(0, 1, start_) != kTypeClientHello) return HelloProblem::kNotTls;
    if (start_.size() < kMessageHeaderSize) return HelloProblem::kIncomplete;
    size_ = kMessageHeaderSize + NumberAt(1, 3, start_);
    return HelloProblem::kNone;
  }

  void Join() {
    joined_.reserve(carried_);
    for (size_t at = 0; joined_.size() < size_;) {
      const std::string_view fragment = FragmentAt(at, bytes_);
      joined_ += fragment;
      at += kRecordHeaderSize + fragment.size();
    }
  }

  std::string_view bytes_;
  size_t carried_ = 0;  // how much of it has come, and what follows it in its last record
  std::string start_;   // its type and length, as far as they have come
  size_t size_ = 0;     // with them, when they have
  std::string joined_;  // of a message in more than one record
};

}  // namespace

HelloProblem ReadClientHello(std::string_view bytes, ClientHello& hello) {
  HelloMessage message(bytes);
  const HelloProblem problem = message.Check();
  if (problem != HelloProblem::kNone) return problem;
  ClientHello read;
  if (!ReadHelloBody(message.Body(), read)) return HelloProblem::kMalformed;
  hello = std::move(read);
  return HelloProblem::kNone;
}

// The record that has begun, or a byte of the next one. Of the first bytes, each may be the wrong
// one.
size_t ClientHelloNeeds(std::string_view bytes) {
  if (bytes.size() < kRecordHeaderSize + kMessageHeaderSize) return bytes.size() + 1;
  size_t end = 0;
  while (end + kRecordHeaderSize <= bytes.size()) {
    end += kRecordHeaderSize + NumberAt(end + kRecordLengthAt, 2, bytes);
  }
  return end > bytes.size() ? end : end + kRecordHeaderSize + 1;
}

}  // namespace parkway
