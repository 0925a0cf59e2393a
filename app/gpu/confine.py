"""What a process that meets strangers' bytes takes from itself, for good, once it has started."""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys

#: Calls that reach other processes, by their numbers per machine (Linux, asm/unistd.h): ptrace, process_vm_readv and
#: process_vm_writev, kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_open, pidfd_send_signal,
#: pidfd_getfd, kcmp; socket, socketpair; execve, execveat; unshare, setns; io_uring_setup, perf_event_open, bpf;
#: add_key, request_key, keyctl.
# fmt: off
DENIED = {
    "x86_64": (
        101, 310, 311, 62, 200, 234, 129, 297, 434, 424, 438, 312, 41, 53, 59, 322, 272, 308, 425, 298, 321,
        248, 249, 250,
    ),
    "aarch64": (
        117, 270, 271, 129, 130, 131, 138, 240, 434, 424, 438, 272, 198, 199, 221, 281, 97, 268, 425, 241, 280,
        217, 218, 219,
    ),
}
# fmt: on

#: As the kernel calls them (linux/audit.h); a process may not call it as another machine's.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

#: From here on a call is one of x32, which has numbers of its own.
X32 = 0x40000000

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000


def confine() -> None:
    """Leave this process what is open and its own memory: no new descriptor, no dump, no other process."""
    # The service ends its processes itself; a Ctrl-C in the terminal must not end a picture in the middle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if problem := _filter_calls():
        print(f"A decoder can reach other processes of its user: {problem}.", file=sys.stderr)  # noqa: T201
    # What is open stays open, and no descriptor can be had any more: not for a file, not for a connection.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _filter_calls() -> str | None:
    """Have the kernel refuse the calls that are denied; why it does not, if it does not."""
    machine = platform.machine()
    if machine not in DENIED:
        return f"the numbers of {machine}'s system calls are not known here"
    program = _program(ARCHITECTURES[machine], DENIED[machine])
    buffer = ctypes.create_string_buffer(b"".join(program))
    # struct sock_fprog: how many, and where they are.
    header = struct.pack("HP", len(program), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        return os.strerror(ctypes.get_errno())
    return None


def _program(architecture: int, denied: tuple[int, ...]) -> list[bytes]:
    """A filter as the kernel reads it (linux/filter.h): code, steps to jump if true and if not, operand."""
    checks = [struct.pack("HBBI", JUMP_IF_EQUAL, len(denied) - at, 0, number) for at, number in enumerate(denied)]
    return [
        struct.pack("HBBI", LOAD, 0, 0, 4),  # seccomp_data.arch
        struct.pack("HBBI", JUMP_IF_EQUAL, 1, 0, architecture),
        struct.pack("HBBI", RETURN, 0, 0, KILL),
        struct.pack("HBBI", LOAD, 0, 0, 0),  # seccomp_data.nr
        struct.pack("HBBI", JUMP_IF_AT_LEAST, len(denied) + 1, 0, X32),
        *checks,
        struct.pack("HBBI", RETURN, 0, 0, ALLOW),
        struct.pack("HBBI", RETURN, 0, 0, DENY),
    ]
