// SPDX-License-Identifier: Apache-2.0
//
// The version, in one place: --version, the banner and the packages take it from here.
#ifndef PARKWAY_SERVER_VERSION_H_
#define PARKWAY_SERVER_VERSION_H_

#include <string_view>

namespace parkway {

inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace parkway

#endif  // PARKWAY_SERVER_VERSION_H_
