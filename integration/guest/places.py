"""Where on the host the guest keeps its memory and its working files."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from integration.guest.errors import GuestError

# Folders that the guest has empty ones of its own in place of.
FRESH_FOLDERS = ("/tmp", "/run", "/dev", "/proc", "/sys")

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


def memory_folder(size: int) -> str:
    """A folder for the sparse file of `size` bytes that is the guest's memory.

    User-Mode Linux maps that file executable, and dies of SIGBUS when the file system fills up; in containers
    /dev/shm is often 64 MB. Memory-backed folders come first: elsewhere the host writes pages to disk.
    """
    candidates = ["/dev/shm", os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp"]
    for folder in candidates:
        if not folder or not os.access(folder, os.W_OK | os.X_OK):
            continue
        stat = os.statvfs(folder)
        if stat.f_bavail * stat.f_frsize >= size and not stat.f_flag & os.ST_NOEXEC:
            return os.path.abspath(folder)
    raise GuestError(
        f"none of {', '.join(filter(None, candidates))} is writable, not mounted noexec and has "
        f"{size >> 20} MB free for the guest's memory: free some space, set TMPDIR or give a smaller --memory"
    )


def make_work_folder() -> Path:
    """A new folder with a short path without blanks (it stands on the kernel's command line)."""
    for parent in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="uml-guest-", dir=parent))
    raise GuestError("none of /tmp, /var/tmp and /dev/shm is writable: make one of them writable")


def resolve_shares(shares: list[str], cwd: str) -> list[str]:
    """Absolute paths of the shared folders, outer ones first; refuses what the guest could not show."""
    resolved = sorted({os.path.realpath(share) for share in shares})
    for share in resolved:
        if not os.path.isdir(share):
            raise GuestError(f"shared folder {share} is not a folder: give one that is there")
        if share == "/" or share in FRESH_FOLDERS or "\n" in share:
            raise GuestError(f"folder {share!r} cannot be shared: give a folder further down")
    if not os.path.isdir(cwd):
        raise GuestError(f"current folder {cwd} is not there: change to one that is")
    hidden = any(_within(cwd, folder) for folder in FRESH_FOLDERS)
    if hidden and not any(_within(cwd, share) for share in resolved):
        raise GuestError(f"the guest has its own folder in place of {cwd}: add --share {cwd}")
    return resolved


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
