"""A User-Mode Linux from Debian's kernel source, in minutes, as only what the configuration lists is built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from integration.guest.check import find_program
from integration.guest.errors import GuestError
from integration.guest.suites import download

LIMIT = 1800.0
"""Seconds for one build; about 7 minutes are usual on two processors."""
ABOUT = 1000
"""Objects that a build makes, more or less."""
MODULE_LISTS = ("modules.builtin", "modules.builtin.modinfo")
"""Files that name what is built in, as distributions install them below /lib/modules."""
TOOLS = {"gcc": "gcc", "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils", "dpkg": "dpkg"}
# Unpacked, they would be half of all, and nothing of them is built. Kconfig files stay: others include them.
_LEFT_OUT = ("*/Documentation/*/*", "*/drivers/gpu/drm/*/*.[ch]", "*/tools/testing/*", "*/arch/a*", "*/arch/[c-t]*")


def missing_tools() -> list[str]:
    """Return the Debian packages that a build needs and this machine lacks."""
    missing = [package for program, package in TOOLS.items() if find_program(program) is None]
    # A compiler without the C library's headers builds nothing.
    return missing if Path("/usr/include/stdio.h").exists() else [*missing, "libc6-dev"]


def build(
    version: str, package: str, configuration: Path, target: Path, apt: Path, report: Callable[[str], None]
) -> None:
    """Build Linux `version`; put the program `linux`, its whole configuration `config` and MODULE_LISTS into `target`.

    package: the version of the Debian package. apt: the directory of `suites`. Raises GuestError.
    """
    began = time.monotonic()
    report(f"building Linux {package} from Debian's linux-source-{version}, once; this takes some minutes")
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as name:
        work = Path(name)
        archive = download(apt, version, package, work)
        source = _unpack(archive, version, work)
        report(f"unpacked after {time.monotonic() - began:.0f} s")
        make = ["make", "-s", "ARCH=um", "-C", str(source), f"O={work}/built"]
        (work / "built").mkdir()
        (work / "wanted").write_text("".join(configuration_lines(configuration.read_text())))
        _run([*make, "allnoconfig"], began, {"KCONFIG_ALLCONFIG": str(work / "wanted")})
        _compile([word for word in make if word != "-s"], began, report)
        shutil.copy(work / "built" / "linux", target / "linux")
        subprocess.run(["strip", "--strip-debug", target / "linux"], check=False)
        shutil.copy(work / "built" / ".config", target / "config")
        for name in MODULE_LISTS:
            shutil.copy(work / "built" / name, target / name)
    report(f"Linux {package} is built, after {time.monotonic() - began:.0f} s")


def configuration_lines(text: str) -> Iterator[str]:
    """Yield lines for Kconfig: a word of the file is the name of an option to build in, or NAME=VALUE."""
    for line in text.splitlines():
        if not line.startswith("#"):
            for word in line.split():
                yield f"CONFIG_{word}\n" if "=" in word else f"CONFIG_{word}=y\n"


def _unpack(archive: Path, version: str, work: Path) -> Path:
    _run(["dpkg", "-x", str(archive), str(work)], time.monotonic())
    archive.unlink()
    tar = work / "usr" / "src" / f"linux-source-{version}.tar.xz"
    _run(["tar", "-C", str(work), *(f"--exclude={p}" for p in _LEFT_OUT), "-xf", str(tar)], time.monotonic())
    tar.unlink()
    return work / f"linux-source-{version}"


def _run(argv: list[str], began: float, environment: dict[str, str] | None = None) -> None:
    left = max(1.0, LIMIT - (time.monotonic() - began))
    try:
        done = subprocess.run(
            argv, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        raise GuestError(f"the kernel was not built within {LIMIT:g} s: is the machine overloaded?") from None
    if done.returncode:
        raise GuestError(f"the kernel cannot be built: `{argv[0]}` failed:\n{_tail(done.stderr)}")


def _compile(make: list[str], began: float, report: Callable[[str], None]) -> None:
    """Run make, with a line of progress: in place on a terminal, otherwise now and then."""
    jobs = f"-j{os.cpu_count() or 1}"
    log: list[str] = []
    objects, reported = 0, began
    live = sys.stderr.isatty()
    with subprocess.Popen(
        [*make, jobs, "linux"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            log = [*log[-40:], line]
            objects += bool(re.match(r"\s+(CC|AS)\s", line))
            now = time.monotonic()
            if now - began > LIMIT:
                os.killpg(process.pid, 9)
                raise GuestError(f"the kernel was not built within {LIMIT:g} s: is the machine overloaded?")
            if now - reported > (0.5 if live else 30.0):
                reported = now
                text = f"{objects} of about {max(objects, ABOUT)} objects, {now - began:.0f} s"
                if live:
                    print(f"\rguest: {text} ", end="", file=sys.stderr, flush=True)
                else:
                    report(text)
    if live:
        print(file=sys.stderr)
    if process.returncode:
        raise GuestError(f"the kernel cannot be built: make failed:\n{_tail(''.join(log))}")


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-12:])
