"""Debian's suites, asked for kernel sources without touching the machine's own lists of packages.

apt runs with a configuration of its own, in a directory of its own; only the mirror is the machine's.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from integration.guest.errors import GuestError

SUITES = ("sid", "stable", "oldstable")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIMIT = 300.0
_NAME = "linux-source-"


def kernel_sources(directory: Path) -> dict[str, str]:
    """Return the newest package of each kernel source: upstream version to package version, 7.2 to 7.2.13-1.

    directory: where apt keeps what it needs. Raises GuestError without apt, or when the suites cannot be read.
    """
    _configure(directory)
    _run(directory, "apt-get", "-qq", "update")
    names = _run(directory, "apt-cache", "pkgnames", _NAME).split()
    found = {}
    for name in names:
        version = name.removeprefix(_NAME)
        if not re.fullmatch(r"\d+\.\d+", version):
            continue
        candidate = re.search(r"Candidate: (\S+)", _run(directory, "apt-cache", "policy", name))
        if candidate and candidate[1] != "(none)":
            found[version] = candidate[1]
    return found


def download(directory: Path, version: str, package: str, target: Path) -> Path:
    """Fetch one kernel source into `target`; return the path of the package. Raises GuestError."""
    _configure(directory)
    _run(directory, "apt-get", "-qq", "download", f"{_NAME}{version}={package}", cwd=target)
    return next(target.glob(f"{_NAME}*.deb"))


def _configure(directory: Path) -> None:
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    words = [f"Types: deb\nURIs: {_mirror()}\nSuites: {' '.join(SUITES)}\nComponents: main\nSigned-By: {KEYS}\n"]
    (directory / "debian.sources").write_text("".join(words))
    (directory / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{directory}/debian.sources";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::preferencesparts "/dev/null";\n'
        f'Dir::State::lists "{directory}/lists";\n'
        f'Dir::Cache "{directory}/cache";\n'
        'Acquire::Languages "none";\n'
        'APT::Sandbox::User "";\n'
        "Acquire::Retries 3;\n"
    )


def _mirror() -> str:
    """Return the mirror of Debian's archive that the machine uses. Raises GuestError if it uses none."""
    words = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"]
    try:
        done = subprocess.run(["apt-get", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GuestError("no apt-get here: kernels are built from Debian's source packages") from None
    mirrors = done.stdout.split()
    if not mirrors:
        raise GuestError("apt knows no Debian mirror here: run `apt-get update` as root, then try again")
    return mirrors[0]


def _run(directory: Path, *argv: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "APT_CONFIG": str(directory / "apt.conf"), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, env=environment, cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except FileNotFoundError:
        raise GuestError(f"no {argv[0]} here: kernels are built from Debian's source packages") from None
    except subprocess.TimeoutExpired:
        raise GuestError(f"`{' '.join(argv)}` took more than {LIMIT:g} s: is the network there?") from None
    if done.returncode:
        raise GuestError(f"`{' '.join(argv)}` failed: {done.stderr.strip().splitlines()[-1:] or 'without a word'}")
    return done.stdout
