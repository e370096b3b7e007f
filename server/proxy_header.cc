// SPDX-License-Identifier: Apache-2.0
#include "server/proxy_header.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "sched/check.h"
#include "server/crc32c.h"

namespace parkway {
namespace {

using netpoll::Endpoint;

// --- Both versions.

constexpr ProxyRead kMoreToCome = {.problem = ProxyProblem::kIncomplete};
constexpr size_t kInetSize = sizeof(in_addr);
constexpr size_t kInet6Size = sizeof(in6_addr);

ProxyRead RefuseProxyHeader(ProxyProblem problem) { return {.problem = problem}; }

// As much of `start` as there is, is right.
bool BeginsAs(std::string_view start, std::string_view bytes) {
  return start.substr(0, bytes.size()) == bytes.substr(0, start.size());
}

// `address` has 4 or 16 bytes, which tell the family.
Endpoint InetEndpoint(std::string_view address, uint16_t port) {
  if (address.size() == kInetSize) {
    sockaddr_in in = {};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, address.data(), kInetSize);
    return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&in), sizeof in);
  }
  sockaddr_in6 in6 = {};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(port);
  std::memcpy(&in6.sin6_addr, address.data(), kInet6Size);
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&in6), sizeof in6);
}

// --- Reading version 1, a line.

constexpr std::string_view kLineStart = "PROXY ";
constexpr std::string_view kLineEnd = "\r\n";  // a lone CR or LF is none
constexpr std::string_view kLineUnknown = "UNKNOWN";
constexpr size_t kLineMax = 107;  // with its end

// Cuts what stands before the next space, and the space.
std::string_view TakeField(std::string_view& line) {
  const std::string_view field = line.substr(0, line.find(' '));
  line.remove_prefix(std::min(field.size() + 1, line.size()));
  return field;
}

// The 4 or 16 bytes of an address, or none. inet_pton() wants just four octets without needless
// zeros, and no more than one "::".
std::string ReadAddressText(int family, std::string_view text) {
  const bool has_nul = text.find('\0') != text.npos;  // inet_pton() would stop there
  char bytes[kInet6Size];
  if (has_nul || inet_pton(family, std::string(text).c_str(), bytes) != 1) return "";
  return std::string(bytes, family == AF_INET ? kInetSize : kInet6Size);
}

std::optional<uint16_t> ReadPortText(std::string_view digits) {
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return port;
}

// What stands between the start and the end.
ProxyProblem ReadFields(std::string_view line, ProxyHeader& header) {
  const std::string_view protocol = TakeField(line);
  if (protocol == kLineUnknown) {
    header = ProxyHeader();
    return ProxyProblem::kNone;
  }
  if (protocol != "TCP4" && protocol != "TCP6") return ProxyProblem::kMalformed;
  const int family = protocol == "TCP4" ? AF_INET : AF_INET6;
  const std::string source = ReadAddressText(family, TakeField(line));
  const std::string destination = ReadAddressText(family, TakeField(line));
  const std::optional<uint16_t> source_port = ReadPortText(TakeField(line));
  const std::optional<uint16_t> destination_port = ReadPortText(line);  // nothing follows it
  if (source.empty() || destination.empty() || !source_port || !destination_port) {
    return ProxyProblem::kMalformed;
  }
  header = ProxyHeader{.has_addresses = true,
                       .source = InetEndpoint(source, *source_port),
                       .destination = InetEndpoint(destination, *destination_port)};
  return ProxyProblem::kNone;
}

ProxyRead ReadVersion1(std::string_view bytes, ProxyHeader& header) {
  if (!BeginsAs(kLineStart, bytes)) return RefuseProxyHeader(ProxyProblem::kNotAHeader);
  const std::string_view line = bytes.substr(0, kLineMax);
  const size_t end = line.find(kLineEnd);
  if (end == line.npos) {
    return line.size() < kLineMax ? kMoreToCome : RefuseProxyHeader(ProxyProblem::kTooLong);
  }
  const std::string_view fields = line.substr(kLineStart.size(), end - kLineStart.size());
  const ProxyProblem problem = ReadFields(fields, header);
  if (problem != ProxyProblem::kNone) return RefuseProxyHeader(problem);
  return {.problem = ProxyProblem::kNone, .size = end + kLineEnd.size()};
}

// --- Version 2: signature, version and command, family and transport, length; then as many bytes:
// addresses, as the family has them, and TLVs.

constexpr std::string_view kBinarySignature("\r\n\r\n\0\r\nQUIT\n", 12);  // it has a NUL
constexpr size_t kCommandAt = 12;
constexpr size_t kFamilyAt = 13;
constexpr size_t kLengthAt = 14;
constexpr size_t kFixedSize = 16;

constexpr uint8_t kCommandLocal = 0x20;  // with the version, 2
constexpr uint8_t kCommandProxy = 0x21;
constexpr uint8_t kTransportMax = 2;
constexpr uint8_t kTransportStream = 1;

enum class AddressFamily : uint8_t { kUnspec, kInet, kInet6, kUnix };
constexpr size_t kAddressesSize[] = {0, 2 * kInetSize + 4, 2 * kInet6Size + 4, 216};
constexpr size_t kUnixSize = sizeof(sockaddr_un::sun_path);
static_assert(2 * kUnixSize == kAddressesSize[3]);

enum class TlvType : uint8_t {
  kCrc32c = 0x03,
  kNoop = 0x04,  // padding
  kUniqueId = 0x05,
  kSsl = 0x20,
};
constexpr size_t kTlvStart = 3;  // a type and a length
constexpr size_t kCrc32cSize = 4;
constexpr size_t kUniqueIdMax = 128;
constexpr size_t kSslStart = 5;  // the client's flags and how its certificate was verified

uint8_t ByteAt(std::string_view bytes, size_t at) { return static_cast<uint8_t>(bytes[at]); }

uint16_t Big16At(std::string_view bytes, size_t at) {
  return static_cast<uint16_t>(ByteAt(bytes, at) << 8 | ByteAt(bytes, at + 1));
}

uint32_t Big32At(std::string_view bytes, size_t at) {
  return uint32_t{Big16At(bytes, at)} << 16 | Big16At(bytes, at + 2);
}

// A type may be one that has no name here.
struct Tlv {
  TlvType type{};
  std::string_view value{};
  std::string_view whole{};
};

// Cuts the first one. None if what is left ends in the middle of it.
std::optional<Tlv> TakeTlv(std::string_view& tlvs) {
  if (tlvs.size() < kTlvStart) return std::nullopt;
  const size_t size = kTlvStart + Big16At(tlvs, 1);
  if (size > tlvs.size()) return std::nullopt;
  const std::string_view whole = tlvs.substr(0, size);
  tlvs.remove_prefix(size);
  return Tlv{.type = TlvType{ByteAt(whole, 0)}, .value = whole.substr(kTlvStart), .whole = whole};
}

// --- Reading version 2.

// What the first 16 bytes say.
struct FixedPart {
  size_t size = 0;                                // of the header
  AddressFamily family = AddressFamily::kUnspec;  // as far as its addresses are for us
};

// Each field is looked at as soon as it is there.
ProxyProblem ReadFixedPart(std::string_view bytes, FixedPart& fixed) {
  if (!BeginsAs(kBinarySignature, bytes)) return ProxyProblem::kNotAHeader;
  if (bytes.size() <= kCommandAt) return ProxyProblem::kIncomplete;
  const uint8_t command = ByteAt(bytes, kCommandAt);
  if (command != kCommandLocal && command != kCommandProxy) return ProxyProblem::kBadCommand;

  if (bytes.size() <= kFamilyAt) return ProxyProblem::kIncomplete;
  if (command == kCommandProxy) {
    const int family = ByteAt(bytes, kFamilyAt) >> 4;
    const int transport = ByteAt(bytes, kFamilyAt) & 0xf;
    if (family > static_cast<int>(AddressFamily::kUnix) || transport > kTransportMax) {
      return ProxyProblem::kBadFamily;
    }
    // Datagrams are not what came.
    if (transport == kTransportStream) fixed.family = AddressFamily(family);
  }

  if (bytes.size() < kFixedSize) return ProxyProblem::kIncomplete;
  const size_t length = Big16At(bytes, kLengthAt);
  if (length > kProxyHeaderMax - kFixedSize) return ProxyProblem::kTooLong;
  if (length < kAddressesSize[static_cast<int>(fixed.family)]) return ProxyProblem::kMalformed;
  fixed.size = kFixedSize + length;
  return ProxyProblem::kNone;
}

// A field is padded with NULs, and an abstract name, which begins with NUL, has no other end.
Endpoint UnixEndpoint(std::string_view field) {
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, field.data(), kUnixSize);
  const size_t size = field.find_last_not_of('\0') + 1;  // npos + 1 == 0
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr*>(&un),
                                offsetof(sockaddr_un, sun_path) + size);
}

// `block` has the size that the family has.
void ReadAddressBlock(AddressFamily family, std::string_view block, ProxyHeader& header) {
  header.has_addresses = true;
  if (family == AddressFamily::kUnix) {
    header.source = UnixEndpoint(block.substr(0, kUnixSize));
    header.destination = UnixEndpoint(block.substr(kUnixSize));
    return;
  }
  const size_t size = family == AddressFamily::kInet ? kInetSize : kInet6Size;
  header.source = InetEndpoint(block.substr(0, size), Big16At(block, 2 * size));
  header.destination = InetEndpoint(block.substr(size, size), Big16At(block, 2 * size + 2));
}

// Of the whole header, as if the value of its checksum were 0.
uint32_t ChecksumOf(std::string_view bytes, std::string_view value) {
  const std::string_view zeros("\0\0\0\0", kCrc32cSize);
  const auto at = static_cast<size_t>(value.data() - bytes.data());
  const uint32_t crc = ExtendCrc32c(ExtendCrc32c(0, bytes.substr(0, at)), zeros);
  return ExtendCrc32c(crc, bytes.substr(at + kCrc32cSize));
}

bool AreTlvs(std::string_view bytes) {
  while (!bytes.empty()) {
    if (!TakeTlv(bytes)) return false;
  }
  return true;
}

bool HasLegalValue(const Tlv& tlv) {
  switch (tlv.type) {
    case TlvType::kCrc32c:
      return tlv.value.size() == kCrc32cSize;
    case TlvType::kUniqueId:
      return tlv.value.size() <= kUniqueIdMax;
    case TlvType::kSsl:
      return tlv.value.size() >= kSslStart && AreTlvs(tlv.value.substr(kSslStart));
    default:
      return true;
  }
}

// `tlvs` are the last of `bytes`, the whole header.
ProxyProblem CheckTlvs(std::string_view tlvs, std::string_view bytes) {
  std::optional<Tlv> checksum;
  while (!tlvs.empty()) {
    const std::optional<Tlv> tlv = TakeTlv(tlvs);
    if (!tlv || !HasLegalValue(*tlv)) return ProxyProblem::kMalformed;
    if (tlv->type != TlvType::kCrc32c) continue;
    if (checksum) return ProxyProblem::kMalformed;
    checksum = tlv;
  }
  const bool fits = !checksum || Big32At(checksum->value, 0) == ChecksumOf(bytes, checksum->value);
  return fits ? ProxyProblem::kNone : ProxyProblem::kBadChecksum;
}

ProxyRead ReadVersion2(std::string_view bytes, ProxyHeader& header) {
  FixedPart fixed;
  const ProxyProblem early = ReadFixedPart(bytes, fixed);
  if (early != ProxyProblem::kNone) return RefuseProxyHeader(early);
  if (bytes.size() < fixed.size) return kMoreToCome;

  ProxyHeader read;
  if (fixed.family != AddressFamily::kUnspec) {
    bytes = bytes.substr(0, fixed.size);
    const size_t addresses_size = kAddressesSize[static_cast<int>(fixed.family)];
    const std::string_view tlvs = bytes.substr(kFixedSize + addresses_size);
    const ProxyProblem problem = CheckTlvs(tlvs, bytes);
    if (problem != ProxyProblem::kNone) return RefuseProxyHeader(problem);
    ReadAddressBlock(fixed.family, bytes.substr(kFixedSize, addresses_size), read);
    read.tlvs = tlvs;
  }
  header = std::move(read);
  return {.problem = ProxyProblem::kNone, .size = fixed.size};
}

// --- Writing.

// In which both can be told.
AddressFamily CommonFamily(const Endpoint& source, const Endpoint& destination) {
  const auto is_inet = [](const Endpoint& endpoint) {
    return endpoint.family() == AF_INET || endpoint.family() == AF_INET6;
  };
  if (source.is_unix() && destination.is_unix()) return AddressFamily::kUnix;
  if (!is_inet(source) || !is_inet(destination)) return AddressFamily::kUnspec;
  const bool is_v4 = source.family() == AF_INET && destination.family() == AF_INET;
  return is_v4 ? AddressFamily::kInet : AddressFamily::kInet6;
}

// The 16 bytes of an address; of an IPv4 one, ::ffff:a.b.c.d.
std::string MappedAddress(const Endpoint& endpoint) {
  if (endpoint.family() == AF_INET6) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(endpoint.data());
    return std::string(reinterpret_cast<const char*>(&in6->sin6_addr), kInet6Size);
  }
  const auto* in = reinterpret_cast<const sockaddr_in*>(endpoint.data());
  return std::string(10, '\0') + "\xff\xff" +
         std::string(reinterpret_cast<const char*>(&in->sin_addr), kInetSize);
}

// As the family has it: 4 or 16 bytes, or 108.
std::string AddressField(AddressFamily family, const Endpoint& endpoint) {
  if (family == AddressFamily::kInet) return MappedAddress(endpoint).substr(12);
  if (family == AddressFamily::kInet6) return MappedAddress(endpoint);
  const auto* un = reinterpret_cast<const sockaddr_un*>(endpoint.data());
  std::string path(un->sun_path, endpoint.size() - offsetof(sockaddr_un, sun_path));
  path.resize(kUnixSize);
  return path;
}

std::string AddressText(AddressFamily family, const Endpoint& endpoint) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(family == AddressFamily::kInet ? AF_INET : AF_INET6,
            AddressField(family, endpoint).data(), text, sizeof text);
  return text;
}

std::string WriteVersion1(const ProxyToSend& what) {
  std::string line(kLineStart);
  const AddressFamily family = CommonFamily(what.source, what.destination);
  if (family == AddressFamily::kUnspec || family == AddressFamily::kUnix) {
    return line.append(kLineUnknown).append(kLineEnd);
  }
  line += family == AddressFamily::kInet ? "TCP4 " : "TCP6 ";
  line += AddressText(family, what.source) + " " + AddressText(family, what.destination) + " ";
  line += std::to_string(what.source.port()) + " " + std::to_string(what.destination.port());
  return line.append(kLineEnd);
}

std::string Big16(size_t number) {
  return {static_cast<char>(number >> 8), static_cast<char>(number)};
}

std::string AddressBlock(AddressFamily family, const ProxyToSend& what) {
  if (family == AddressFamily::kUnspec) return "";
  const std::string fields =
      AddressField(family, what.source) + AddressField(family, what.destination);
  if (family == AddressFamily::kUnix) return fields;
  return fields + Big16(what.source.port()) + Big16(what.destination.port());
}

void AppendTlv(TlvType type, std::string_view value, std::string& to) {
  to += static_cast<char>(type);
  to.append(Big16(value.size())).append(value);
}

// A checksum and padding were of the header they came with; there is one unique id.
bool IsPassedOn(TlvType type, bool has_unique_id) {
  if (type == TlvType::kUniqueId) return !has_unique_id;
  return type != TlvType::kCrc32c && type != TlvType::kNoop;
}

// As many of the first as fit into `size_max`.
void AppendPassedTlvs(const ProxyToSend& what, size_t size_max, std::string& to) {
  std::string_view tlvs = what.tlvs;
  while (const std::optional<Tlv> tlv = TakeTlv(tlvs)) {
    if (!IsPassedOn(tlv->type, !what.unique_id.empty())) continue;
    if (to.size() + tlv->whole.size() > size_max) return;
    to += tlv->whole;
  }
}

void SetLength(std::string& header) {
  header.replace(kLengthAt, 2, Big16(header.size() - kFixedSize));
}

// The last step: it is over all bytes.
void AppendChecksum(std::string& header) {
  AppendTlv(TlvType::kCrc32c, std::string(kCrc32cSize, '\0'), header);
  SetLength(header);
  const uint32_t crc = ExtendCrc32c(0, header);
  header.replace(header.size() - kCrc32cSize, kCrc32cSize, Big16(crc >> 16) + Big16(crc));
}

std::string WriteVersion2(const ProxyToSend& what) {
  const AddressFamily family =
      what.is_local ? AddressFamily::kUnspec : CommonFamily(what.source, what.destination);
  const int transport = family == AddressFamily::kUnspec ? 0 : kTransportStream;
  std::string header(kBinarySignature);
  header += static_cast<char>(what.is_local ? kCommandLocal : kCommandProxy);
  header += static_cast<char>(static_cast<int>(family) << 4 | transport);
  header += Big16(0);
  header += AddressBlock(family, what);
  if (!what.is_local) {
    if (!what.unique_id.empty()) AppendTlv(TlvType::kUniqueId, what.unique_id, header);
    const size_t kept = what.checksum ? kTlvStart + kCrc32cSize : 0;
    AppendPassedTlvs(what, kProxyHeaderMax - kept, header);
  }
  SetLength(header);
  if (what.checksum) AppendChecksum(header);
  return header;
}

}  // namespace

ProxyRead ReadProxyHeader(std::string_view bytes, AcceptProxy accept, ProxyHeader& header) {
  PARKWAY_CHECK(accept != AcceptProxy::kOff, 0);
  if (bytes.empty()) return kMoreToCome;
  // One byte tells the versions apart.
  const bool is_v2 = bytes.front() == kBinarySignature.front();
  const AcceptProxy other = is_v2 ? AcceptProxy::kV1 : AcceptProxy::kV2;
  if (accept == other) return RefuseProxyHeader(ProxyProblem::kNotAHeader);
  return is_v2 ? ReadVersion2(bytes, header) : ReadVersion1(bytes, header);
}

std::string WriteProxyHeader(SendProxy version, const ProxyToSend& what) {
  PARKWAY_CHECK(version != SendProxy::kOff, 0);
  PARKWAY_CHECK(what.unique_id.size() <= kUniqueIdMax, what.unique_id.size());
  return version == SendProxy::kV1 ? WriteVersion1(what) : WriteVersion2(what);
}

}  // namespace parkway
