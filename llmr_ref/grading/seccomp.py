"""A seccomp filter that refuses new processes and namespaces, for the worker and the kernel.

Stands on its own (standard library only): the sandbox sees this file beside worker.py.
"""

import errno
import os
import struct

CLONE_THREAD = 0x10000
# By architecture: its number for audit, clone, clone3, and the other calls that are refused:
# fork and vfork (where there are any) and unshare.
SYSTEM_CALLS = {
    "x86_64": (0xC000003E, 56, 435, (57, 58, 272)),
    "aarch64": (0xC00000B7, 220, 435, (97,)),
}


def no_new_processes() -> bytes:
    """The filter as classic BPF, 8 bytes an instruction. Threads stay allowed.

    Raises: OSError for a machine whose system calls are not known here.
    """
    machine = os.uname().machine
    if machine not in SYSTEM_CALLS:
        raise OSError(f"processes cannot be limited on {machine}; known: {', '.join(SYSTEM_CALLS)}")
    architecture, clone, clone3, refused = SYSTEM_CALLS[machine]
    load, equal, at_least, any_bit, verdict = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, error = 0x80000000, 0x7FFF0000, 0x00050000  # results; an error carries its errno
    number_at, architecture_at, first_argument_at = 0, 4, 16  # in the kernel's struct seccomp_data
    program = [
        (load, 0, 0, architecture_at),
        (equal, 1, 0, architecture),
        (verdict, 0, 0, kill),
        (load, 0, 0, number_at),
        (at_least, 0, 1, 0x40000000),  # the x32 numbering of x86-64
        (verdict, 0, 0, kill),
        # clone3 hides its flags behind a pointer; without it libc takes clone.
        *((equal, 0, 1, clone3), (verdict, 0, 0, error | errno.ENOSYS)),
    ]
    for number in refused:
        program += [(equal, 0, 1, number), (verdict, 0, 0, error | errno.EPERM)]
    program += [
        (equal, 0, 3, clone),
        (load, 0, 0, first_argument_at),
        (any_bit, 1, 0, CLONE_THREAD),
        (verdict, 0, 0, error | errno.EPERM),
        (verdict, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in program)
