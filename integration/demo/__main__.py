"""Command line: python -m integration.demo [OPTIONS].

Exit status: 0 every claim held, 1 some did not or the demo could not go on, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import types

from integration.demo.backends import BACKENDS
from integration.demo.kernel import why_not_here
from integration.guest import GuestError, run_in_guest

EXIT_INTERRUPT = 130
GUEST_LIMIT = 300.0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m integration.demo",
        description="Show the proxy at work, in network namespaces of its own. Touches nothing else.",
        epilog="Exit status: 0 every claim held, 1 not, 130 Ctrl-C.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        help="how long the steady load around the agent's crash lasts, without its start (default %(default)s)",
    )
    parser.add_argument("--backend", choices=list(BACKENDS), default="ipvs", help="which to show (default %(default)s)")
    parser.add_argument("--all", action="store_true", help="show the whole of `ipvsagent status`")
    parser.add_argument("--guest", action="store_true", help="in a guest, even if this kernel would do")
    parser.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.seconds <= 0:
        parser.error("--seconds must be more than 0")
    return options


def main(argv: list[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    # A shell that starts us in the background has SIGINT ignored; being able to stop it is worth more.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = _parse(argv)
    try:
        if not options.here:
            backend = BACKENDS[options.backend]
            reason = "asked to" if options.guest else why_not_here(backend)
            if reason:
                return _in_guest(options, reason)
            print(f"On this machine's own kernel, Linux {os.uname().release}: {backend.here}.", flush=True)
        return _here(options)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything it made is gone", file=sys.stderr)
        return EXIT_INTERRUPT


def _in_guest(options: argparse.Namespace, reason: str) -> int:
    print(f"Not on this machine's own kernel ({reason}): booting a guest, a few seconds.", flush=True)
    words = [sys.executable, "-m", "integration.demo", "--here"]
    words += ["--seconds", str(options.seconds), "--began", str(options.began), "--backend", options.backend]
    words += ["--all"] if options.all else []
    try:
        status = run_in_guest(words, cwd=_checkout(), timeout=GUEST_LIMIT + options.seconds)
    except GuestError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0 if status == 0 else 1


def _here(options: argparse.Namespace) -> int:
    # Not above: what only decides where to run should not wait for what draws.
    from integration.demo.directory import working_directory
    from integration.demo.stage import Stage
    from integration.demo.steps import Demo
    from integration.lab import LabError

    stage = Stage(options.began)
    with working_directory() as directory:
        demo = Demo(stage, directory, BACKENDS[options.backend], seconds=options.seconds, show_all=options.all)
        complete = False
        try:
            demo.run()
            complete = True
        except LabError as error:
            stage.failure(f"the demo could not go on: {error}")
        finally:
            if not (complete and not stage.broken) and demo.agent:
                stage.log(list(demo.agent.log_tail()))
            demo.close()
        held = stage.verdict(demo.figures())
    return 0 if complete and held else 1


def _checkout() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _end(number: int, _frame: types.FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
