// SPDX-License-Identifier: Apache-2.0
//
// Reads a command line as the daemon does, prints the flags it amounts to, and starts nothing: with
// it the tests of
// //deploy check the shipped flag file. Exits as the daemon does, 2 after a bad flag.
#include <iostream>

#include "server/config.h"

int main(int argc, char** argv) {
  const absl::StatusOr<parkway::ParseResult> parsed =
      parkway::ParseCommandLine(argc, argv, std::cout);
  if (!parsed.ok()) {
    std::cerr << "parkway: " << parsed.status().message() << "\n";
    return 2;
  }
  if (parsed->action == parkway::ParseResult::Action::kExit) return 0;
  for (const std::string& line : parkway::ToFlags(parsed->config)) std::cout << line << "\n";
  return 0;
}
