#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arm64 system call instruction, cross-compiled and run under qemu.
set -euo pipefail

for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "SKIPPED: no $tool (Debian: g++-aarch64-linux-gnu, qemu-user)"
    exit 0
  fi
done

program="$TEST_TMPDIR/kernel_syscall_test"
aarch64-linux-gnu-g++ -std=c++20 -O2 -Wall -Wextra -Werror -static -I. -o "$program" \
  netpoll/kernel_syscall_test.cc netpoll/kernel_syscall.cc
qemu-aarch64 "$program"
