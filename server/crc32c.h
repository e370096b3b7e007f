// SPDX-License-Identifier: Apache-2.0
//
// The checksum of iSCSI, SCTP and the PROXY protocol (CRC-32C, RFC 3720, appendix B.4).
#ifndef PARKWAY_SERVER_CRC32C_H_
#define PARKWAY_SERVER_CRC32C_H_

#include <cstdint>
#include <string_view>

namespace parkway {

// The checksum of what `crc` is of, followed by `bytes`; 0 is that of nothing. A byte at a time:
// for headers, not for what is relayed.
uint32_t ExtendCrc32c(uint32_t crc, std::string_view bytes);

}  // namespace parkway

#endif  // PARKWAY_SERVER_CRC32C_H_
