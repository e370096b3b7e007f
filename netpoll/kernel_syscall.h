// SPDX-License-Identifier: Apache-2.0
//
// System calls and their errors for code that may move between threads.
//
// `errno` is not safe there. The C library declares the function that finds it as `const`, so a
// compiler may keep its result, this thread's errno, across a call that parks and returns on
// another thread. RawSyscall has no errno: the kernel's answer is the value or -errno. It also
// skips what the library does for cancellation, about 40 instructions per call in a threaded
// process.
#ifndef PARKWAY_NETPOLL_KERNEL_SYSCALL_H_
#define PARKWAY_NETPOLL_KERNEL_SYSCALL_H_

namespace netpoll::internal {

// errno of the thread that runs this, looked up anew. Directly after the call that set it.
int ThreadErrno();

// The value, or -errno. Invisible to sanitizers, which intercept the library's functions.
inline long RawSyscall(long number, long a, long b = 0, long c = 0, long d = 0, long e = 0,
                       long f = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc #0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
#else
#error "Parkway makes system calls on x86-64 and arm64"
#endif
}

}  // namespace netpoll::internal

#endif  // PARKWAY_NETPOLL_KERNEL_SYSCALL_H_
