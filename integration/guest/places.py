"""Where on the host the guest keeps its memory and its working files."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from integration.guest.errors import GuestError

# Directories that the guest replaces by empty ones of its own.
FRESH_DIRECTORIES = ("/tmp", "/run", "/dev", "/proc", "/sys")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_memory(text: str) -> int:
    """Bytes in a size such as 512M or 2G."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text.upper())
    if not match:
        raise GuestError(f"memory size {text!r} is not a number with K, M or G: give one such as 2G")
    size = int(match[1]) * _UNITS[match[2]]
    if size < 128 << 20:
        raise GuestError(f"memory size {text} is too small to boot: give at least 128M")
    return size


def memory_directory(size: int) -> str:
    """A directory for the sparse file of `size` bytes that is the guest's memory.

    User-Mode Linux maps that file executable, and dies of SIGBUS when the file system fills up; in containers
    /dev/shm is often 64 MB. Memory-backed directories come first: elsewhere the host writes pages to disk.
    """
    candidates = ["/dev/shm", os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp"]
    for directory in candidates:
        if not directory or not os.access(directory, os.W_OK | os.X_OK):
            continue
        stat = os.statvfs(directory)
        if stat.f_bavail * stat.f_frsize >= size and not stat.f_flag & os.ST_NOEXEC:
            return os.path.abspath(directory)
    raise GuestError(
        f"none of {', '.join(filter(None, candidates))} is writable, not mounted noexec and has "
        f"{size >> 20} MB free for the guest's memory: free some space, set TMPDIR or give a smaller --memory"
    )


def make_work_directory() -> Path:
    """A new directory with a short path without blanks (it stands on the kernel's command line)."""
    for parent in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="uml-guest-", dir=parent))
    raise GuestError("none of /tmp, /var/tmp and /dev/shm is writable: make one of them writable")


def resolve_shares(shares: list[str], cwd: str) -> list[str]:
    """Absolute paths of the shared directories, outer ones first; refuses what the guest could not show."""
    resolved = sorted({os.path.realpath(share) for share in shares})
    for share in resolved:
        if not os.path.isdir(share):
            raise GuestError(f"shared path {share} is not a directory: give one that exists")
        if share == "/" or share in FRESH_DIRECTORIES or "\n" in share:
            raise GuestError(f"directory {share!r} cannot be shared: give a directory further down")
    if not os.path.isdir(cwd):
        raise GuestError(f"current directory {cwd} does not exist: change to one that does")
    hidden = any(_within(cwd, directory) for directory in FRESH_DIRECTORIES)
    if hidden and not any(_within(cwd, share) for share in resolved):
        raise GuestError(f"the guest has its own directory in place of {cwd}: add --share {cwd}")
    return resolved


def _within(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory
