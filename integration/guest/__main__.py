"""Command line: python -m integration.guest [OPTIONS] -- COMMAND ARGS.

Exit status: the command's own (128 + n if signal n ended it); or, with a line `guest: ...` on standard error,
125 if the harness failed, 124 after a time-out, 130 after Ctrl-C. Should the command itself exit with 124,
125 or 130, the line says that.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import types

from integration.guest.boot import run_in_guest
from integration.guest.check import missing_packages, remedy
from integration.guest.errors import GuestError, GuestTimeout
from integration.guest.kernels import DEBIAN, NEWEST

EXIT_TIMEOUT = 124
EXIT_HARNESS = 125
EXIT_INTERRUPT = 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m integration.guest",
        description="Run one command in a User-Mode Linux guest on this machine's own root file system.",
        epilog="Exit status: the command's; 125 harness failure, 124 time-out, 130 Ctrl-C.",
    )
    parser.add_argument("--check", action="store_true", help="say whether a guest can boot here (exit status 0 or 1)")
    parser.add_argument(
        "--kernel",
        default=DEBIAN,
        metavar="NAME",
        help=f"{DEBIAN} (default), {NEWEST}, or a version such as 6.12; all but the first are built on first use",
    )
    parser.add_argument("--cpus", type=int, metavar="N", help="processors (default: this machine's, if the kernel can)")
    parser.add_argument("--iptables", choices=("legacy", "nft"), help="what the command iptables means in the guest")
    parser.add_argument("--memory", default="2G", metavar="SIZE", help="the guest's memory (default %(default)s)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="default %(default)s; 0 is none")
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="DIR",
        help="write changes below DIR through to the host",
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="add to the environment")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ARGS")
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.check and not options.command:
        parser.error("no command given")
    if any("=" not in word for word in options.env):
        parser.error("--env takes NAME=VALUE")
    return options


def _say(text: str) -> None:
    print(f"guest: {text}", file=sys.stderr, flush=True)


def _check(kernel: str) -> int:
    missing = missing_packages()
    if missing:
        _say(remedy(missing))
        return 1
    try:
        status = run_in_guest(["true"], cwd="/", timeout=180, memory="256M", kernel=kernel)
    except GuestError as error:
        _say(f"cannot boot here: {error}")
        return 1
    _say("can boot here" if status == 0 else f"booted, but `true` gave exit status {status}")
    return int(status != 0)


def _end(number: int, _frame: types.FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    # A shell that starts us in the background has SIGINT ignored; being able to stop it is worth more.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = _parse(argv)
    try:
        if options.check:
            return _check(options.kernel)
        status = run_in_guest(
            options.command,
            shares=options.share,
            env=dict(word.split("=", 1) for word in options.env),
            timeout=options.timeout or None,
            memory=options.memory,
            kernel=options.kernel,
            cpus=options.cpus,
            iptables=options.iptables,
        )
    except GuestTimeout as error:
        _say(str(error))
        return EXIT_TIMEOUT
    except GuestError as error:
        _say(str(error))
        return EXIT_HARNESS
    except KeyboardInterrupt:
        _say("interrupted, guest killed")
        return EXIT_INTERRUPT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes at exit
        return 128 + signal.SIGPIPE
    if status in (EXIT_TIMEOUT, EXIT_HARNESS, EXIT_INTERRUPT):
        _say(f"the command itself ended with exit status {status}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
