"""Runs a command under a filter that refuses one system call, as an older kernel or a container does.

refuse.py CALL[:ARGUMENT=VALUE] ERRNO COMMAND...: e.g. refuse.py ioctl:1=0x40182103 EINVAL netgraft run -- true
"""

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {  # x86-64, AArch64
    "close_range": (436, 436),
    "ioctl": (16, 29),
    "mount": (165, 40),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "seccomp": (317, 277),
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def main():
    what, _, condition = sys.argv[1].partition(":")
    number = NUMBERS[what][platform.machine() == "aarch64"]
    refuse = [(RETURN, 0, 0, ERRNO | getattr(errno, sys.argv[2]))]
    if condition:
        argument, value = condition.split("=")
        # The low word of an argument in struct seccomp_data.
        refuse = [(LOAD, 0, 0, 16 + 8 * int(argument)), (JUMP_EQUAL, 0, 1, int(value, 0))] + refuse
    code = [(LOAD, 0, 0, 0), (JUMP_EQUAL, 0, len(refuse), number)] + refuse + [(RETURN, 0, 0, ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
    # Through prctl: the call seccomp itself may be the one that is refused.
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0)):
        if libc.prctl(*arguments) != 0:
            sys.exit(os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[3], sys.argv[3:])


main()
