"""Reads manifest files on disk: which exist, whether one is complete, and what it contains.

A file may be read when no process has it open for writing. A read lease shows this: the kernel refuses one while there
is a writer. It does not show whether a writer will open the file again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".yaml", ".yml", ".json")
DOES_NOT_EXIST = "it does not exist"


class Stamp(NamedTuple):
    """Identifies the content of a file, as far as the file system can: a change of content changes the stamp."""

    device: int
    inode: int
    size: int
    modified: int
    """Nanoseconds since 1970."""

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Listing(NamedTuple):
    """Lists the files below some roots."""

    files: dict[str, Stamp]
    problems: dict[str, str]
    """Directories and files that cannot be examined, and why."""


class Busy(Enum):
    """Names why a file cannot be read now."""

    OPEN_FOR_WRITING = "another process has it open for writing"
    CHANGING = "it keeps changing"


def list_files(roots: Iterable[Path]) -> Listing:
    """List the roots that are files, whatever their names, and below directories all files that end in one of SUFFIXES.

    Hidden names are left out: editors put unfinished work there, and a mounted ConfigMap its generations (its
    visible names are links into the current one). A root that does not exist is a problem.
    """
    listing = Listing({}, {})
    seen: set[tuple[int, int]] = set()
    for root in roots:
        _list(str(root), listing, seen, is_root=True)
    return listing


def _list(path: str, listing: Listing, seen: set[tuple[int, int]], *, is_root: bool) -> None:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                for name in _visible(path):
                    _list(name, listing, seen, is_root=False)
        elif is_root or path.endswith(SUFFIXES):
            if stat.S_ISREG(status.st_mode):
                listing.files[path] = Stamp.of(status)
            else:
                listing.problems[path] = "it is neither a file nor a directory"
    except FileNotFoundError:
        if is_root:
            listing.problems[path] = DOES_NOT_EXIST
        elif os.path.islink(path) and path.endswith(SUFFIXES):
            listing.problems[path] = "it is a dangling symbolic link"
    except OSError as error:
        if is_root or path.endswith(SUFFIXES) or error.errno != errno.ELOOP:
            listing.problems[path] = f"it cannot be read: {os.strerror(error.errno or 0)}"


def _visible(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        yield os.path.join(directory, name)


SETTLED_AFTER = 1.0
"""Seconds without a change after which a file counts as complete."""


def is_settled(before: Stamp | None, stamp: Stamp, now: float) -> bool:
    """Return whether a file was renamed into its place, or has not changed since the last poll or for SETTLED_AFTER.

    before: its stamp at the last poll. now: seconds since 1970.
    """
    if before is not None and (before == stamp or before.inode != stamp.inode):
        return True
    return now - stamp.modified / 1e9 > SETTLED_AFTER


def read_whole(path: str, stamp: Stamp) -> bytes | Busy:
    """Return the content that the stamp belongs to. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if Stamp.of(os.fstat(fd)) != stamp:
            return Busy.CHANGING
        if _has_writer(fd):
            return Busy.OPEN_FOR_WRITING
        content = file.read()
        if Stamp.of(os.fstat(fd)) != stamp or len(content) != stamp.size:
            return Busy.CHANGING
        return Busy.OPEN_FOR_WRITING if _has_writer(fd) else content


def _has_writer(fd: int) -> bool:
    """Return whether a process has the file open for writing; False also where the kernel cannot determine it."""
    try:
        # The kernel sends a signal if a writer comes while the lease is held. Its default, SIGIO, would end this
        # process; SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
