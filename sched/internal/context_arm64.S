// SPDX-License-Identifier: Apache-2.0
// See context.h.
#if defined(__aarch64__)

        .text
        .globl  parkway_switch_context
        .type   parkway_switch_context, %function
        .p2align 4
parkway_switch_context:
        .cfi_startproc
        sub     sp, sp, #160
        .cfi_adjust_cfa_offset 160
        stp     x19, x20, [sp, #0]
        .cfi_rel_offset x19, 0
        .cfi_rel_offset x20, 8
        stp     x21, x22, [sp, #16]
        .cfi_rel_offset x21, 16
        .cfi_rel_offset x22, 24
        stp     x23, x24, [sp, #32]
        .cfi_rel_offset x23, 32
        .cfi_rel_offset x24, 40
        stp     x25, x26, [sp, #48]
        .cfi_rel_offset x25, 48
        .cfi_rel_offset x26, 56
        stp     x27, x28, [sp, #64]
        .cfi_rel_offset x27, 64
        .cfi_rel_offset x28, 72
        stp     x29, x30, [sp, #80]
        .cfi_rel_offset x29, 80
        .cfi_rel_offset x30, 88
        stp     d8, d9, [sp, #96]
        stp     d10, d11, [sp, #112]
        stp     d12, d13, [sp, #128]
        stp     d14, d15, [sp, #144]
        mov     x9, sp
        str     x9, [x0]
        mov     sp, x1
        ldp     x19, x20, [sp, #0]
        ldp     x21, x22, [sp, #16]
        ldp     x23, x24, [sp, #32]
        ldp     x25, x26, [sp, #48]
        ldp     x27, x28, [sp, #64]
        ldp     x29, x30, [sp, #80]
        ldp     d8, d9, [sp, #96]
        ldp     d10, d11, [sp, #112]
        ldp     d12, d13, [sp, #128]
        ldp     d14, d15, [sp, #144]
        add     sp, sp, #160
        .cfi_adjust_cfa_offset -160
        ret
        .cfi_endproc
        .size   parkway_switch_context, . - parkway_switch_context

        .globl  parkway_start_context
        .type   parkway_start_context, %function
        .p2align 4
parkway_start_context:
        .cfi_startproc
        .cfi_undefined x30              // the outermost frame: unwinders stop here
        mov     x0, x19
        blr     x20
        brk     #1
        .cfi_endproc
        .size   parkway_start_context, . - parkway_start_context

        .globl  parkway_enter_stack
        .type   parkway_enter_stack, %function
        .p2align 4
parkway_enter_stack:
        .cfi_startproc
        .cfi_undefined x30
        and     x9, x0, #-16
        mov     sp, x9
        mov     x0, x2
        blr     x1
        brk     #1
        .cfi_endproc
        .size   parkway_enter_stack, . - parkway_enter_stack

#endif
        .section .note.GNU-stack, "", %progbits
