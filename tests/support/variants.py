"""Which variants of iptables work on this kernel."""

from __future__ import annotations

import functools
import subprocess


@functools.cache
def works(program: str) -> bool:
    """Report whether a program such as `iptables-nft` is installed and this kernel has its tables."""
    try:
        return subprocess.run([program, "-S"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
