"""Shared memory that pixels go through: a decoder writes, engines read, and nobody copies.

A slot is an anonymous file of fixed size (`memfd_create`; a container's /dev/shm has no part in it). Only pages that
were written take memory.
"""

import fcntl
import mmap
import os

#: Bytes of a slot that stay in memory when it is free: a usual picture's, whose pages need not be asked for anew.
KEPT = 16 * 2**20

#: Bytes for every pixel that may be decoded: three for each, at full scale and at all reduced ones together.
BYTES_PER_PIXEL = 3 * 9 / 4


def slot_bytes(max_pixels: int) -> int:
    """The size of a slot in which any picture has room that is not refused for its pixels."""
    pages = -(-int(BYTES_PER_PIXEL * max_pixels) // mmap.PAGESIZE)
    return (pages + 1) * mmap.PAGESIZE


class Slot:
    """One slot, as the process sees it that made it."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        #: For the decoder, which writes.
        self.writable_fd = os.memfd_create(f"slot-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(self.writable_fd, size)
        # Whoever maps it would be killed if another made it shorter.
        fcntl.fcntl(self.writable_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._writable = mmap.mmap(self.writable_fd, size)
        #: For engine processes, which only read: see `mapped`.
        self.fd = os.open(f"/proc/self/fd/{self.writable_fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.memory = mapped(self.fd, size)

    def trim(self) -> None:
        """Give back the memory of a large picture."""
        if self.size > KEPT:
            self._writable.madvise(mmap.MADV_REMOVE, KEPT, self.size - KEPT)

    def close(self) -> None:
        """Close the descriptors; the memory goes when nobody maps it any more."""
        os.close(self.fd)
        os.close(self.writable_fd)


def mapped(fd: int, size: int) -> memoryview:
    """A slot's memory, read-only, in any process that was given its descriptor."""
    return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
