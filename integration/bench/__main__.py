"""Command line: python -m integration.bench [OPTIONS].

Exit status: 0 every claim holds, 1 some do not, 2 the run could not be finished, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from integration.bench.claims import judge
from integration.bench.figures import Figures
from integration.bench.table import failures, lines
from integration.demo.kernel import why_not_here
from integration.guest import GuestError, run_in_guest

CHECKOUT = Path(__file__).resolve().parents[2]
EXIT_FAILED, EXIT_UNFINISHED, EXIT_INTERRUPT = 1, 2, 130
GUEST_LIMIT, GUEST_MEMORY = 3600.0, "3G"


def _sizes(text: str) -> list[int]:
    sizes = sorted({int(word) for word in text.split(",")})
    if sizes[0] < 1:
        raise ValueError(text)
    return sizes


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m integration.bench",
        description="Measure the agent on a kernel and hold it to what the project claims. Touches nothing else.",
        epilog="Exit status: 0 every claim holds, 1 some do not, 2 could not finish, 130 Ctrl-C.",
    )
    parser.add_argument(
        "--sizes", type=_sizes, default="100,1000,10000", metavar="N,...", help="numbers of Services (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, samples and verdicts")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each programming (%(default)s)")
    parser.add_argument("--changes", type=int, default=1000, help="changed endpoints (%(default)s)")
    parser.add_argument("--events", type=int, default=200, help="changed slices at the API server (%(default)s)")
    parser.add_argument("--only", choices=["api", "route"], default="", help="measure and judge nothing else")
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="how long idling is watched (%(default)s)")
    parser.add_argument("--guest", action="store_true", help="in a guest, even if this kernel would do")
    parser.add_argument("--measure-into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = _parse(argv)
    try:
        if options.measure_into:
            return _measure(options, options.measure_into)
        reason = "asked to" if options.guest else why_not_here()
        # The directory is shared with the guest, which has directories of its own in place of /tmp.
        with tempfile.TemporaryDirectory(prefix="ipvsagent-bench-", dir="/var/tmp" if reason else None) as directory:
            results = Path(directory, "results.json")
            own = {} if options.only == "route" else _own(options, Path(directory))
            status = _in_guest(argv, results, reason) if reason else _measure(options, results)
            if status != 0:
                return status
            document = json.loads(results.read_text())
            return _report({**document, "samples": {**document["samples"], **own}}, options.json, options.only)
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPT


def _own(options: argparse.Namespace, directory: Path) -> dict[str, dict[int, list[float]]]:
    """On this machine's own kernel, whatever it is."""
    from integration.bench.session import Session

    session = Session(options.sizes, directory, changes=options.changes, only=options.only, say=_say)
    session.own()
    return session.samples


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _in_guest(argv: Sequence[str], results: Path, reason: str) -> int:
    print(f"Not on this machine's own kernel ({reason}): booting a guest.", file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "integration.bench", *argv, "--measure-into", str(results)]
    try:
        status = run_in_guest(words, cwd=CHECKOUT, shares=[results.parent], timeout=GUEST_LIMIT, memory=GUEST_MEMORY)
    except GuestError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_UNFINISHED
    if status:
        print(f"bench: it ended in the guest with exit status {status}", file=sys.stderr)
        return EXIT_UNFINISHED
    return 0


def _measure(options: argparse.Namespace, results: Path) -> int:
    from integration.bench.session import Session, machine
    from integration.lab import LabError

    with tempfile.TemporaryDirectory(prefix="ipvsagent-bench-") as directory:
        session = Session(
            options.sizes,
            Path(directory),
            repeats=max(1, options.repeats),
            changes=options.changes,
            events=options.events,
            only=options.only,
            idle_seconds=options.idle_seconds,
            say=_say,
        )
        try:
            session.run()
        except (LabError, OSError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return EXIT_UNFINISHED
    results.write_text(json.dumps({"machine": machine(), "sizes": options.sizes, "samples": session.samples}))
    return 0


def _report(document: dict[str, Any], target: Path | None, only: str) -> int:
    samples = {
        name: {int(size): values for size, values in by_size.items()} for name, by_size in document["samples"].items()
    }
    figures = Figures(samples, document["sizes"])
    verdicts = [verdict for verdict in judge(figures) if not only or verdict.figure.startswith(f"{only}.")]
    print(", ".join(f"{name} {value}" for name, value in document["machine"].items()))
    print(f"slowed by other work (a loop against its best): {figures.slowed()}")
    for line in (*lines(figures, verdicts, only), *failures(verdicts)):
        print(line)
    if target:
        claims = [
            {
                "claim": verdict.claim,
                "figure": verdict.figure,
                "size": verdict.size or "growth",
                "value": verdict.value,
                "limit": verdict.limit,
                "held": verdict.held,
                "why": verdict.why,
            }
            for verdict in verdicts
        ]
        target.write_text(json.dumps({**document, "figures": figures.as_document(), "claims": claims}, indent=2) + "\n")
    return 0 if all(verdict.held for verdict in verdicts) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
