// SPDX-License-Identifier: Apache-2.0
//
// The known name that somebody who mistyped meant.
#ifndef PARKWAY_SERVER_SUGGEST_H_
#define PARKWAY_SERVER_SUGGEST_H_

#include <string_view>
#include <vector>

namespace parkway {

// The nearest by edit distance (Levenshtein 1966), the first of several; empty if even that differs
// in more than a third of the letters.
std::string_view Nearest(std::string_view name, const std::vector<std::string_view>& known);

}  // namespace parkway

#endif  // PARKWAY_SERVER_SUGGEST_H_
