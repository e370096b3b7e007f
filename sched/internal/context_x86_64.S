// SPDX-License-Identifier: Apache-2.0
// See context.h.
#if defined(__x86_64__)

        .text
        .globl  parkway_switch_context
        .type   parkway_switch_context, @function
        .p2align 4
parkway_switch_context:
        .cfi_startproc
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        pushq   %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r12, 0
        pushq   %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r13, 0
        pushq   %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r14, 0
        pushq   %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %r15, 0
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        popq    %r15
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r15
        popq    %r14
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r14
        popq    %r13
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r13
        popq    %r12
        .cfi_adjust_cfa_offset -8
        .cfi_restore %r12
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        popq    %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbp
        ret
        .cfi_endproc
        .size   parkway_switch_context, . - parkway_switch_context

        .globl  parkway_start_context
        .type   parkway_start_context, @function
        .p2align 4
parkway_start_context:
        .cfi_startproc
        .cfi_undefined %rip             // the outermost frame: unwinders stop here
        movq    %r12, %rdi
        callq   *%rbx
        ud2
        .cfi_endproc
        .size   parkway_start_context, . - parkway_start_context

        .globl  parkway_enter_stack
        .type   parkway_enter_stack, @function
        .p2align 4
parkway_enter_stack:
        .cfi_startproc
        .cfi_undefined %rip
        andq    $-16, %rdi
        movq    %rdi, %rsp
        movq    %rdx, %rdi
        callq   *%rsi
        ud2
        .cfi_endproc
        .size   parkway_enter_stack, . - parkway_enter_stack

#endif
        .section .note.GNU-stack, "", %progbits
