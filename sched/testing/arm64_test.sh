#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The program made of the sources given, cross-compiled for arm64 and run under qemu.
set -euo pipefail

for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "SKIPPED: no $tool (Debian: g++-aarch64-linux-gnu, qemu-user)"
    exit 0
  fi
done

program="$TEST_TMPDIR/program"
aarch64-linux-gnu-g++ -std=c++20 -O2 -Wall -Wextra -Werror -static -I. -o "$program" "$@"
qemu-aarch64 "$program"
