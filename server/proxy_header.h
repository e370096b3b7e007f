// SPDX-License-Identifier: Apache-2.0
//
// The header of the PROXY protocol, versions 1 and 2, by which a proxy tells the next one who its
// client is (HAProxy, proxy-protocol.txt of 2020-03-05). Bytes in, bytes out: no connection here.
#ifndef PARKWAY_SERVER_PROXY_HEADER_H_
#define PARKWAY_SERVER_PROXY_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "netpoll/endpoint.h"

namespace parkway {

// Which versions a listener accepts, of which one has to be there.
enum class AcceptProxy : uint8_t { kOff, kV1, kV2, kAny };
enum class SendProxy : uint8_t { kOff, kV1, kV2 };

// The longest that is accepted, with its TLVs. The protocol allows 65551 bytes.
inline constexpr size_t kProxyHeaderMax = 4096;

struct ProxyHeader {
  // False: LOCAL, UNKNOWN or UNSPEC. Who connected speaks for itself.
  bool has_addresses = false;
  netpoll::Endpoint source{};
  netpoll::Endpoint destination{};
  // Of version 2, with addresses: as they came, their checksum and padding too. They are well
  // formed.
  std::string tlvs{};
};

enum class ProxyProblem : uint8_t {
  kNone,
  kIncomplete,   // so far nothing is wrong with it: more has to come
  kNotAHeader,   // it begins otherwise, or is of a version that is not accepted
  kMalformed,    // a field of it says what it may not
  kBadCommand,   // v2: a version or command that the protocol does not know
  kBadFamily,    // v2: an address family or transport that the protocol does not know
  kBadChecksum,  // v2: its CRC32C does not fit
  kTooLong,      // v1: no end within 107 bytes; v2: more than kProxyHeaderMax
};

struct ProxyRead {
  ProxyProblem problem = ProxyProblem::kIncomplete;
  size_t size = 0;  // of the header, with kNone; what follows is not its
};

// Reads the header that `bytes` begin with; with kNone, into `header`. Wrong bytes are found as
// soon as they are there, except that the fields of v1 and the TLVs of v2 wait for its end:
// whatever follows, a refusal stays as it is. REQUIRES: accept is not kOff. Never reads beyond the
// header's first kProxyHeaderMax bytes.
//
// Of LOCAL and of what has no addresses for us (UNSPEC, datagrams) the rest is skipped by its
// length: its TLVs may say anything. An IPv6 address stays one, also ::ffff:a.b.c.d. A Unix name
// ends before the NULs that fill its field, an abstract one too.
ProxyRead ReadProxyHeader(std::string_view bytes, AcceptProxy accept, ProxyHeader& header);

// What a header is made of.
struct ProxyToSend {
  // Nothing of the client: LOCAL (v2); a v1 line is of the addresses even so, and UNKNOWN without.
  bool is_local = false;
  netpoll::Endpoint source{};
  netpoll::Endpoint destination{};
  std::string_view unique_id{};  // v2: a TLV, at most 128 bytes; empty: none
  // v2: passed on, without their checksum and padding, and with their unique id if none is given.
  std::string_view tlvs{};
  bool checksum = false;  // v2: a CRC32C
};

// The bytes to send, at most kProxyHeaderMax: TLVs that do not fit any more are left out, from the
// end. Addresses of different families, IPv4 and IPv6, are both written as IPv6 (::ffff:0:0/96). v1
// cannot tell of Unix sockets (UNKNOWN), nor v2 of one Unix socket and another address (UNSPEC).
// REQUIRES: version is not kOff.
std::string WriteProxyHeader(SendProxy version, const ProxyToSend& what);

}  // namespace parkway

#endif  // PARKWAY_SERVER_PROXY_HEADER_H_
