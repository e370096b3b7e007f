// SPDX-License-Identifier: Apache-2.0
//
// Hellos, which strangers send: an answer does not depend on how the bytes arrive, nor on the
// records that a message is cut into.
#include <algorithm>
#include <memory>
#include <optional>

#include "sched/testing/fuzz.h"
#include "server/client_hello.h"

namespace parkway {
namespace {

using sched::testing::Require;

constexpr size_t kFragmentSizes[] = {1, 2, 3, 4, 5, 7, 64, 251, 1024, 16384};

struct Answer {
  HelloProblem problem = HelloProblem::kIncomplete;
  ClientHello hello{};
};

bool Same(const Answer& a, const Answer& b) {
  return a.problem == b.problem && a.hello.server_name == b.hello.server_name &&
         a.hello.protocols == b.hello.protocols;
}

// AddressSanitizer sees a byte too many being read.
Answer ReadCopy(std::string_view bytes) {
  const auto copy = std::make_unique<char[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  Answer answer;
  answer.problem = ReadClientHello({copy.get(), bytes.size()}, answer.hello);
  return answer;
}

bool IsForName(char c) { return c > ' ' && c <= '~' && !(c >= 'A' && c <= 'Z'); }

void CheckHello(const ClientHello& hello, std::string_view bytes) {
  const std::string& name = hello.server_name;
  Require(name.size() <= 255, "a name is bounded", bytes);
  Require(std::all_of(name.begin(), name.end(), IsForName), "a name is plain, in lower case",
          bytes);
  Require(hello.protocols.size() <= 64, "protocols are bounded", bytes);
  for (const std::string& protocol : hello.protocols) {
    Require(!protocol.empty() && protocol.size() <= 255, "a protocol has 1 to 255 bytes", bytes);
  }
}

// Nothing is wrong with the bytes until something is, or they are a hello, and that stays so.
void CheckPrefixes(std::string_view bytes) {
  Answer answer;
  for (size_t size = 0; size <= bytes.size(); ++size) {
    const Answer read = ReadCopy(bytes.substr(0, size));
    if (answer.problem != HelloProblem::kIncomplete) {
      Require(Same(read, answer), "an answer stays", bytes);
      continue;
    }
    answer = read;
    const bool is_set = !Same(Answer{.problem = answer.problem}, answer);
    Require(!is_set || answer.problem == HelloProblem::kNone, "a refused hello says nothing",
            bytes);
    CheckHello(answer.hello, bytes);
  }
  const std::string followed = std::string(bytes) + std::string(kClientHelloMax, '\x16');
  const Answer last = ReadCopy(followed);
  const bool is_open = answer.problem == HelloProblem::kIncomplete;
  Require(is_open ? last.problem != HelloProblem::kIncomplete : Same(last, answer),
          "whatever follows, there is an answer in time, and it stays", bytes);
}

size_t NumberIn(std::string_view bytes) {
  size_t number = 0;
  for (const char byte : bytes) number = number * 256 + static_cast<unsigned char>(byte);
  return number;
}

std::string Number(size_t size, size_t number) {
  std::string bytes;
  while (size-- > 0) bytes += static_cast<char>(number >> (8 * size) & 0xff);
  return bytes;
}

// What the records carry, up to a bad one.
std::string Carried(std::string_view bytes) {
  std::string carried;
  while (bytes.size() > 5 && bytes.starts_with("\x16\3")) {
    const size_t length = NumberIn(bytes.substr(3, 2));
    if (length == 0 || length > 16384) break;
    carried += bytes.substr(5, length);
    bytes.remove_prefix(std::min(bytes.size(), 5 + length));
  }
  return carried;
}

// The whole message that a connection begins with, if it does.
std::optional<std::string> MessageIn(std::string_view bytes) {
  const std::string carried = Carried(bytes);
  if (carried.size() < 4 || carried[0] != 1) return std::nullopt;
  const size_t size = 4 + NumberIn(std::string_view(carried).substr(1, 3));
  if (carried.size() < size) return std::nullopt;
  return carried.substr(0, size);
}

std::string Records(std::string_view message, size_t fragment_size) {
  std::string bytes;
  while (!message.empty()) {
    const std::string_view fragment = message.substr(0, fragment_size);
    bytes += "\x16\3\1" + Number(2, fragment.size());
    bytes += fragment;
    message.remove_prefix(fragment.size());
  }
  return bytes;
}

// However it is cut, the answer is the same as of one record.
void CheckCuts(std::string_view message) {
  const Answer whole = ReadCopy(Records(message, 16384));
  Require(whole.problem == HelloProblem::kNone || whole.problem == HelloProblem::kMalformed,
          "a whole message is legal or not", message);
  for (const size_t size : kFragmentSizes) {
    const std::string records = Records(message, size);
    const Answer cut = ReadCopy(records);
    if (records.size() > kClientHelloMax) {
      Require(cut.problem == HelloProblem::kTooLong, "a hello is bounded", message);
    } else {
      Require(Same(cut, whole), "records make no difference", message);
    }
  }
}

void CheckConnection(std::string_view bytes) {
  CheckPrefixes(bytes);
  const std::optional<std::string> message = MessageIn(bytes);
  const Answer answer = ReadCopy(bytes);
  if (!message) {
    Require(answer.problem != HelloProblem::kNone, "a hello is a whole message", bytes);
    return;
  }
  Require(Same(answer, ReadCopy(Records(*message, 16384))), "what follows makes no difference",
          bytes);
  CheckCuts(*message);
}

}  // namespace
}  // namespace parkway

// The bytes of a connection; and, so that fields need no records around them, of a message behind
// its type and length.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes = sched::testing::TextOf(data, size);
  parkway::CheckConnection(bytes);
  parkway::CheckCuts("\1" + parkway::Number(3, size) + std::string(bytes));
  return 0;
}
