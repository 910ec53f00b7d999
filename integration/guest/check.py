"""What the host must have for the guest: which Debian package is missing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

UML_MODULES = Path("/usr/lib/uml/modules")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# program -> Debian package. The first group boots the guest, the second is used by what runs in it.
BOOT_PROGRAMS = {"linux.uml": "user-mode-linux", "modprobe": "kmod", "busybox": "busybox-static"}
TEST_PROGRAMS = {
    "ipvsadm": "ipvsadm",
    "ipset": "ipset",
    "iptables-legacy": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
}


def find_program(name: str) -> str | None:
    """The path of a program, looked for in PATH and in the directories only root has in its PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def missing_packages(*, boot_only: bool = False) -> list[str]:
    """The Debian packages to install, none if all is there."""
    programs = BOOT_PROGRAMS if boot_only else BOOT_PROGRAMS | TEST_PROGRAMS
    missing = [package for program, package in programs.items() if find_program(program) is None]
    if not any(UML_MODULES.glob("*/modules.dep")) and "user-mode-linux" not in missing:
        missing.insert(0, "user-mode-linux")
    return missing


def remedy(packages: list[str]) -> str:
    """One sentence that says how to get the packages."""
    text = (
        f"the guest needs Debian's {', '.join(packages)}: run `make setup`, "
        f"or `apt-get install -y --no-install-recommends {' '.join(packages)}` as root"
    )
    if platform.machine() not in ("x86_64", "i686"):
        text += f" (Debian has user-mode-linux for amd64 and i386 only, this machine is {platform.machine()})"
    return text
