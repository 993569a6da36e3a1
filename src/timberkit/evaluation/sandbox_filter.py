"""Calls to the kernel that a program in the sandbox may not make, as a seccomp filter.

Namespaces hide files, processes and the network; limits bound one process. Past both go:

- memory that belongs to no process (System V segments, memfd), which ``RLIMIT_AS`` does not count;
- keyrings, which are inherited, so that a program could read what its user's session keeps;
- sockets that no network namespace holds (vsock, to the host of a virtual machine);
- namespaces of its own, mounts, ptrace, BPF, io_uring and the like, where kernels have had holes.

All of these fail with "Operation not permitted". The filter is classic BPF in the form that
``bwrap --seccomp`` takes; calls of another architecture or of the x32 ABI are refused as a whole.
Numbers of calls: ``asm/unistd_64.h`` and ``asm-generic/unistd.h`` of Linux.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_SAME: Mapping[str, int] = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
"""Since Linux 5.1 a new call has one number everywhere."""
_X86_64: Mapping[str, int] = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "semget": 64, "msgget": 68,
    "ptrace": 101, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "init_module": 175, "delete_module": 176,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64: Mapping[str, int] = {
    "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "acct": 89, "unshare": 97,
    "kexec_load": 104, "init_module": 105, "delete_module": 106, "ptrace": 117, "reboot": 142,
    "msgget": 186, "semget": 190, "shmget": 194, "shmctl": 195, "shmat": 196, "socket": 198,
    "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
    "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "memfd_create": 279, "bpf": 280,
    "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture: its number in the kernel's audit, and its numbers of calls."""

    audit: int
    denied: Mapping[str, int]
    clone: int
    clone3: int = 435
    x32: bool = False


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, {**_X86_64, **_SAME}, clone=56, x32=True),
    "aarch64": Machine(0xC00000B7, {**_AARCH64, **_SAME}, clone=220),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in ``struct seccomp_data``; of an argument its lower half, where clone's flags are."""
_ALLOW = 0x7FFF0000
_NOT_PERMITTED, _NO_SUCH_CALL = 0x00050001, 0x00050026
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, TIME."""


def seccomp_filter(name: str | None = None) -> bytes | None:
    """The filter for a machine as ``platform.machine`` names it, this one by default.

    None for one whose numbers of calls are not known here: the sandbox then has its namespaces and
    limits alone.

    >>> len(seccomp_filter("x86_64")) % 8, seccomp_filter("vax")
    (0, None)
    """
    machine = MACHINES.get(name or platform.machine())
    if machine is None:
        return None
    numbers = sorted(machine.denied.values())
    # clone3 has its flags in memory, where a filter cannot look; without it, clone is called.
    tests = [(_EQUAL, number, "deny") for number in numbers]
    tests += [(_EQUAL, machine.clone3, "missing"), (_EQUAL, machine.clone, "clone")]
    if machine.x32:
        tests.insert(0, (_AT_LEAST, _X32, "deny"))
    start = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _NOT_PERMITTED),
        (_LOAD, 0, 0, _NUMBER),
    ]
    end = {"allow": 0, "clone": 1, "deny": 4, "missing": 5}
    jumps = [
        (kind, len(tests) - place - 1 + end[where], 0, number)
        for place, (kind, number, where) in enumerate(tests)
    ]
    endings = [
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOT_PERMITTED),
        (_RETURN, 0, 0, _NO_SUCH_CALL),
    ]
    return b"".join(struct.pack("=HBBI", *each) for each in (*start, *jumps, *endings))
