// SPDX-License-Identifier: Apache-2.0
//
// Headers of the PROXY protocol, which strangers send: an answer does not depend on how the bytes
// arrive, and what is read is written and read again.
#include <algorithm>
#include <cstring>
#include <memory>

#include "netpoll/endpoint.h"
#include "sched/testing/fuzz.h"
#include "server/proxy_header.h"

namespace parkway {
namespace {

using sched::testing::Require;

constexpr AcceptProxy kVersions[] = {AcceptProxy::kV1, AcceptProxy::kV2, AcceptProxy::kAny};

bool Same(const ProxyRead& a, const ProxyRead& b) {
  return a.problem == b.problem && a.size == b.size;
}

bool Same(const ProxyHeader& a, const ProxyHeader& b) {
  return a.has_addresses == b.has_addresses && a.source == b.source &&
         a.destination == b.destination && a.tlvs == b.tlvs;
}

// Memory that ends with the bytes being read: AddressSanitizer sees it when more are.
class Room {
 public:
  explicit Room(size_t size) : end_(size), bytes_(std::make_unique<char[]>(size)) {}

  std::string_view Put(std::string_view bytes) {
    char* const at = bytes_.get() + (end_ - bytes.size());
    std::copy(bytes.begin(), bytes.end(), at);
    return {at, bytes.size()};
  }

 private:
  const size_t end_;
  const std::unique_ptr<char[]> bytes_;
};

// Nothing is wrong with the bytes until something is, or they are a header, and that stays so.
void CheckPrefixes(std::string_view bytes, AcceptProxy accept) {
  Room room(bytes.size());
  ProxyRead answer;
  ProxyHeader first;
  for (size_t size = 0; size <= bytes.size(); ++size) {
    ProxyHeader header;
    const ProxyRead read = ReadProxyHeader(room.Put(bytes.substr(0, size)), accept, header);
    Require((read.size != 0) == (read.problem == ProxyProblem::kNone), "a header has a size",
            bytes);
    if (answer.problem != ProxyProblem::kIncomplete) {
      Require(Same(read, answer), "an answer stays", bytes);
      Require(Same(header, first), "a header is of its own bytes", bytes);
      continue;
    }
    if (read.problem == ProxyProblem::kNone) {
      Require(read.size == size, "a header is read when its last byte is there", bytes);
    }
    answer = read;
    first = header;
  }
  const bool is_open = answer.problem == ProxyProblem::kIncomplete;
  Require(!is_open || bytes.size() < kProxyHeaderMax, "no header is longer", bytes);
}

// kAny takes what either takes.
void CheckVersions(std::string_view bytes) {
  if (bytes.empty()) return;
  ProxyHeader header;
  const ProxyRead v1 = ReadProxyHeader(bytes, AcceptProxy::kV1, header);
  const ProxyRead v2 = ReadProxyHeader(bytes, AcceptProxy::kV2, header);
  const ProxyRead any = ReadProxyHeader(bytes, AcceptProxy::kAny, header);
  const bool is_v1 = v2.problem == ProxyProblem::kNotAHeader;
  Require(is_v1 || v1.problem == ProxyProblem::kNotAHeader, "one byte tells the versions apart",
          bytes);
  Require(Same(any, is_v1 ? v1 : v2), "either version is taken", bytes);
}

// What a header passes on of its TLVs.
std::string Passed(std::string_view tlvs) {
  std::string passed;
  while (!tlvs.empty()) {
    Require(tlvs.size() >= 3, "TLVs are whole", tlvs);
    const auto type = static_cast<unsigned char>(tlvs[0]);
    const size_t size =
        3 + static_cast<unsigned char>(tlvs[1]) * 256U + static_cast<unsigned char>(tlvs[2]);
    Require(tlvs.size() >= size, "TLVs are whole", tlvs);
    if (type != 3 && type != 4) passed += tlvs.substr(0, size);
    tlvs.remove_prefix(size);
  }
  return passed;
}

ProxyHeader ReadBack(const std::string& bytes, AcceptProxy accept) {
  ProxyHeader header;
  const ProxyRead read = ReadProxyHeader(bytes, accept, header);
  Require(read.problem == ProxyProblem::kNone && read.size == bytes.size(),
          "what is written is read", bytes);
  return header;
}

ProxyToSend Again(const ProxyHeader& header) {
  return {.source = header.source, .destination = header.destination, .tlvs = header.tlvs};
}

void CheckLine(const ProxyHeader& header, std::string_view bytes) {
  const std::string line = WriteProxyHeader(SendProxy::kV1, Again(header));
  const ProxyHeader back = ReadBack(line, AcceptProxy::kV1);
  Require(back.has_addresses == (header.has_addresses && !header.source.is_unix()),
          "a line tells of IPv4 and IPv6", bytes);
  if (!back.has_addresses) return;
  Require(back.source == header.source && back.destination == header.destination,
          "a line tells the addresses", bytes);
  if (bytes.front() == 'P' && header.source.family() == AF_INET) {
    Require(line == bytes, "IPv4 is written in one way", bytes);
  }
}

void CheckChecksum(const ProxyHeader& header, std::string_view bytes) {
  ProxyToSend what = Again(header);
  what.unique_id = bytes.substr(0, 128);
  what.checksum = true;
  std::string checked = WriteProxyHeader(SendProxy::kV2, what);
  Require(checked.size() <= kProxyHeaderMax, "a header is bounded", bytes);
  ReadBack(checked, AcceptProxy::kV2);
  // A bit of an address.
  checked[16] = static_cast<char>(checked[16] ^ 1);
  ProxyHeader wrong;
  Require(ReadProxyHeader(checked, AcceptProxy::kV2, wrong).problem == ProxyProblem::kBadChecksum,
          "the checksum tells of a bit that changed", bytes);
}

void CheckBinary(const ProxyHeader& header, std::string_view bytes) {
  const std::string binary = WriteProxyHeader(SendProxy::kV2, Again(header));
  ProxyHeader expected = header;
  expected.tlvs = Passed(header.tlvs);
  Require(Same(ReadBack(binary, AcceptProxy::kV2), expected), "a header tells what it told", bytes);
  if (bytes.front() == '\r' && !header.source.is_unix() && expected.tlvs == header.tlvs) {
    Require(binary == bytes, "IPv4, IPv6 and TLVs are written in one way", bytes);
  }
}

void CheckHeader(const ProxyHeader& header, std::string_view bytes) {
  CheckLine(header, bytes);
  if (!header.has_addresses) {
    Require(Same(header, ProxyHeader()), "what tells no addresses tells nothing", bytes);
    return;
  }
  const int family = header.source.family();
  Require(family == header.destination.family(), "both addresses are of one family", bytes);
  Require(bytes.front() == '\r' || (family != AF_UNIX && header.tlvs.empty()),
          "only version 2 has Unix sockets and TLVs", bytes);
  CheckBinary(header, bytes);
  CheckChecksum(header, bytes);
}

void CheckBytes(std::string_view bytes) {
  for (const AcceptProxy accept : kVersions) CheckPrefixes(bytes, accept);
  CheckVersions(bytes);
  ProxyHeader header;
  const ProxyRead read = ReadProxyHeader(bytes, AcceptProxy::kAny, header);
  if (read.problem == ProxyProblem::kNone) CheckHeader(header, bytes.substr(0, read.size));
}

}  // namespace
}  // namespace parkway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parkway::CheckBytes(sched::testing::TextOf(data, size));
  return 0;
}
