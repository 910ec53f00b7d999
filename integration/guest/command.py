"""The shell script that starts the command in the guest: environment, current directory, arguments."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence

from integration.guest.check import SYSTEM_PATH
from integration.guest.errors import GuestError

# Host directories and job servers that do not exist in the guest.
_NOT_PASSED = {"TMPDIR", "TMP", "TEMP", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS"}
_NOT_PASSED |= {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "DISPLAY", "PWD", "OLDPWD"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def guest_environment(host: Mapping[str, str], extra: Mapping[str, str], *, terminal: bool) -> dict[str, str]:
    """The host's environment, less what means nothing in the guest, plus what the guest needs."""
    env = {key: value for key, value in host.items() if key not in _NOT_PASSED and _NAME.fullmatch(key)}
    present = env.get("PATH", "").split(":")
    env["PATH"] = ":".join([*filter(None, present), *(p for p in SYSTEM_PATH.split(":") if p not in present)])
    if terminal:
        size = shutil.get_terminal_size()
        env.update(TERM=host.get("TERM", "dumb"), COLUMNS=str(size.columns), LINES=str(size.lines))
    else:
        env.update(TERM="dumb", NO_COLOR="1")
    for key, value in extra.items():
        if not _NAME.fullmatch(key):
            raise GuestError(f"{key!r} cannot name an environment variable: give --env NAME=VALUE")
        env[key] = value
    return env


def command_script(argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> bytes:
    """A POSIX shell script that becomes the command."""
    if any("\0" in word for word in argv):
        raise GuestError("an argument of the command has a NUL in it: leave it out")
    lines = [f"export {key}={shlex.quote(value)}" for key, value in sorted(env.items())]
    # Only a harness that is broken gets here with a directory that is not there: say so apart from the status.
    lines.append(f"cd -- {shlex.quote(cwd)} || {{ : >/run/guest/no-directory; exit 125; }}")
    lines.append("exec " + " ".join(shlex.quote(word) for word in argv))
    return os.fsencode("\n".join(lines) + "\n")
