"""The kernels that a guest can run, by name.

``debian`` is the program of Debian's package ``user-mode-linux``: one processor, its modules loaded at boot. Every
other name is a kernel that is built from the package ``linux-source-VERSION`` of Debian's suites on first use, with
what `kernel.config` lists built in: ``6.12`` or ``7.2`` by version, ``newest`` whatever is the newest of them.
Builds are kept in a cache of the user's and made again when the package or the configuration has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from integration.guest.build import build, missing_tools
from integration.guest.check import find_program, missing_packages, remedy
from integration.guest.errors import GuestError
from integration.guest.suites import kernel_sources

DEBIAN, NEWEST = "debian", "newest"
CONFIGURATION = Path(__file__).with_name("kernel.config")
LOOK_AGAIN_AFTER = 7 * 86400.0
"""Seconds for which a list of versions is used before the suites are asked again."""
_FILE = "versions.json"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Kernel:
    """A User-Mode Linux.

    name: as a person gives it. program: what to start. cpus: how many processors it can have at most.
    iptables: the variants that work on it, the usual one first.
    """

    name: str
    program: Path
    cpus: int
    iptables: tuple[str, ...]

    def arguments(self, cpus: int) -> list[str]:
        """Words for its command line. Raises GuestError if it cannot have so many processors."""
        if not 1 <= cpus <= self.cpus:
            raise GuestError(f"kernel {self.name} has from 1 to {self.cpus} processors, not {cpus}: change --cpus")
        # Since 6.16; from there on also much faster than ptrace, with one processor, too.
        return [f"ncpus={cpus}", "seccomp=on"] if self.cpus > 1 else []


def find_kernel(name: str, report: Report | None = None) -> Kernel:
    """Return the kernel with this name, after building it if need be. `report` is given lines for a person.

    Raises GuestError if there is none.
    """
    report = report or _report
    if name == DEBIAN:
        return _debian()
    if name != NEWEST and not re.fullmatch(r"\d+\.\d+", name):
        raise GuestError(f"no kernel {name!r}: give {DEBIAN}, {NEWEST} or a version such as 6.12")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process builds a kernel; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        version, package = _wanted(name, cache, report)
        directory = cache / f"{package.replace('/', '_')}-{_digest(CONFIGURATION.read_bytes())}"
        if not (directory / "linux").exists():
            _build(version, package, directory, report)
        return _built(version, directory)


def cache_directory() -> Path:
    """Return where the builds are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipvsagent" / "kernels"


def _debian() -> Kernel:
    missing = missing_packages(boot_only=True)
    if missing:
        raise GuestError(remedy(missing))
    program = find_program("linux.uml")
    assert program
    return Kernel(DEBIAN, Path(program), cpus=1, iptables=("legacy",))


def _wanted(name: str, cache: Path, report: Report) -> tuple[str, str]:
    """Return the upstream version and the package version, such as 7.2 and 7.2.13-1."""
    known = _known(cache)
    if name not in known or _is_old(cache):
        try:
            known = kernel_sources(cache / "apt")
        except GuestError as error:
            if name not in known:
                raise
            report(f"the versions in Debian's suites are unknown ({error}); going on with those of last time")
        else:
            newest = max(known, key=_number, default="")
            (cache / _FILE).write_text(json.dumps(known | ({NEWEST: newest} if newest else {})))
            known = _known(cache)
    version = known.get(name, "") if name == NEWEST else name
    if version not in known:
        there = ", ".join(sorted(known.keys() - {NEWEST}, key=_number))
        raise GuestError(f"no package linux-source-{version or '*'} in Debian's suites: there are {there or 'none'}")
    return version, known[version]


def _known(cache: Path) -> dict[str, str]:
    try:
        return dict(json.loads((cache / _FILE).read_text()))
    except (OSError, ValueError):
        return {}


def _is_old(cache: Path) -> bool:
    return time.time() - (cache / _FILE).stat().st_mtime > LOOK_AGAIN_AFTER


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _digest(configuration: bytes) -> str:
    return hashlib.sha256(configuration).hexdigest()[:12]


def _build(version: str, package: str, directory: Path, report: Report) -> None:
    missing = missing_tools()
    if missing:
        raise GuestError(
            f"building a kernel needs Debian's {', '.join(missing)}: run `make setup-kernel`, "
            f"or `apt-get install -y --no-install-recommends {' '.join(missing)}` as root"
        )
    new = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        build(version, package, CONFIGURATION, new, directory.parent / "apt", report)
        new.rename(directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for old in directory.parent.glob(f"{version}.*"):
        if old != directory:
            shutil.rmtree(old, ignore_errors=True)


def _built(version: str, directory: Path) -> Kernel:
    options = (directory / "config").read_text()
    most = re.search(r"^CONFIG_NR_CPUS=(\d+)$", options, re.MULTILINE) if "CONFIG_SMP=y" in options else None
    return Kernel(version, directory / "linux", int(most[1]) if most else 1, ("nft", "legacy"))


def _report(line: str) -> None:
    print(f"guest: {line}", file=sys.stderr, flush=True)
