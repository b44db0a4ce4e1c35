//! Programs that leave Python and enter the kernel in other ways.

use super::{Deed::*, Expected::*, Fate::*, Hostile, row};

/// Attacks by machine code. Executable memory is available, since the library's callbacks need it.
#[cfg(target_arch = "x86_64")]
pub(super) const ROWS: &[Hostile] = &[
    row(
        "runs machine code that does no harm",
        // mov eax, 42; ret
        Body(r"return run_machine_code(b'\xb8\x2a\0\0\0\xc3')"),
        Both(Passes),
    ),
    row(
        "forks by machine code",
        // mov eax, 57; syscall; ret. Without the C library, -1 is "not permitted".
        Body(
            r"
if run_machine_code(b'\xb8\x39\0\0\0\x0f\x05\xc3') == -1: raise PermissionError(1, 'not by machine code')
return 1",
        ),
        Both(IsRefused),
    ),
    row(
        "traces by machine code",
        // mov eax, 101; xor edi, edi; syscall; ret
        Body(r"return run_machine_code(b'\xb8\x65\0\0\0\x31\xff\x0f\x05\xc3')"),
        Both(IsKilled),
    ),
    row(
        "enters as a program of 32 bits",
        // mov eax, 20; int 0x80; ret
        Body(r"return run_machine_code(b'\xb8\x14\0\0\0\xcd\x80\xc3')"),
        // A kernel without support for such programs kills it for a bad instruction.
        OneOf(&[IsKilled, Fails("SIGSEGV")]),
    ),
    row(
        "becomes a program of 32 bits",
        // push 0x23; push the address of the next instructions; retf: from there on, in 32 bits,
        // mov eax, 20; int 0x80; ud2. The memory lies low, so that its address fits.
        Body(
            r"
import struct
at = memory(4096, flags=0x40)
code = b'\x6a\x23\x68' + struct.pack('<I', at + 9) + b'\x48\xcb' + b'\xb8\x14\0\0\0\xcd\x80\x0f\x0b'
ctypes.memmove(at, code, len(code))
return ctypes.CFUNCTYPE(ctypes.c_long)(at)()",
        ),
        // For the same reason.
        OneOf(&[IsKilled, Fails("SIGSEGV")]),
    ),
    row(
        "enters by the x32 way",
        Body("return call(0x40000000 + 39)"),
        Both(IsKilled),
    ),
    row(
        "forks by the x32 way",
        Body("return call(0x40000000 + 57)"),
        Both(IsKilled),
    ),
    row(
        "enters by the x32 way at the second call",
        SecondCall("return call(0x40000000 + 520, b'/bin/true', 0, 0)"),
        Both(IsKilled),
    ),
    row(
        "makes an unknown system call",
        Body("return call(100_000)"),
        Both(IsRefused),
    ),
    row(
        "runs an invalid instruction",
        // ud2
        Body(r"return run_machine_code(b'\x0f\x0b')"),
        Both(Fails("SIGILL")),
    ),
    row(
        "stops the processor",
        // hlt
        Body(r"return run_machine_code(b'\xf4')"),
        Both(Fails("SIGSEGV")),
    ),
    row(
        "traps",
        // int3
        Body(r"return run_machine_code(b'\xcc')"),
        Both(Fails("SIGTRAP")),
    ),
];

#[cfg(not(target_arch = "x86_64"))]
pub(super) const ROWS: &[Hostile] = &[];
