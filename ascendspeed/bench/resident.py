"""Peak of the memory that is resident in this process, as the kernel counts it. Linux with glibc only."""

import ctypes
from pathlib import Path

__all__ = ["peak_resident_bytes", "reset_peak", "return_freed_memory"]


def peak_resident_bytes() -> int:
    """The most there was since the process began, or since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def reset_peak() -> None:
    """The peak is what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def return_freed_memory() -> None:
    """Make the allocator give every freed tensor back at once, so that no run finds the memory of the one before."""
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h; setting it also stops it from growing by itself
    ctypes.CDLL(None).mallopt(mmap_threshold, 64 * 1024)
