// SPDX-License-Identifier: Apache-2.0
//
// The ClientHello with which a TLS client begins (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2), as far as
// routes are chosen by it: the server's name (RFC 6066, 3) and the protocols offered (RFC 7301).
// Bytes in, words out: no connection here, and no cryptography.
#ifndef PARKWAY_SERVER_CLIENT_HELLO_H_
#define PARKWAY_SERVER_CLIENT_HELLO_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace parkway {

// The longest ClientHello that is waited for, in bytes of the connection: records with their
// headers. Post-quantum keys make hellos of 2 KiB.
inline constexpr size_t kClientHelloMax = 64 << 10;

struct ClientHello {
  // In lower case and without the dot at its end; printable ASCII of at most 255 bytes without
  // blanks, which may be an address. Empty: it names none. Of an encrypted hello it is the outer
  // one's.
  std::string server_name{};
  // As they were offered, in their order: any bytes, 1 to 255 of them. At most 64.
  std::vector<std::string> protocols{};
};

enum class HelloProblem : uint8_t {
  kNone,
  kIncomplete,  // so far nothing is wrong with it: more has to come
  kNotTls,      // it is no TLS handshake record with a ClientHello
  kMalformed,   // a length or a field of it cannot be, or is beyond what ClientHello says
  kTooLong,     // it ends beyond kClientHelloMax
};

// Reads the ClientHello with which `bytes`, of a connection from its beginning, begin: one message
// in one or more records, whatever follows. `hello` is set with kNone, and left alone otherwise.
//
// Wrong bytes are found as soon as they are there, a wrong length with its last byte, except that
// the fields of the message wait for its end. So is a hello that is too long, by its length and the
// headers of the records that it takes at least: of kClientHelloMax bytes none is kIncomplete. Any
// answer but kIncomplete stays as it is, whatever follows.
//
// Only what routes are chosen by is looked into; other extensions may say anything (RFC 8701).
HelloProblem ReadClientHello(std::string_view bytes, ClientHello& hello);

// So many bytes there have to be before more can be said than of `bytes`, which are kIncomplete.
size_t ClientHelloNeeds(std::string_view bytes);

}  // namespace parkway

#endif  // PARKWAY_SERVER_CLIENT_HELLO_H_
