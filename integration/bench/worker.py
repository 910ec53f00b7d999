"""`python -m integration.bench.worker WHAT SIZE [OPTION=VALUE ...]`: one measurement in a process of its own.

What it measured goes to standard output as one line of JSON. A new process each, because memory and caches of one
measurement would be part of the next.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from pathlib import Path

Measured = dict[str, float]


def main(argv: list[str]) -> None:
    from integration.bench.cluster import Cluster

    logging.getLogger("ipvsagent").addHandler(logging.NullHandler())
    what, size = argv[0], int(argv[1])
    options = dict(word.split("=", 1) for word in argv[2:])
    state = Path(options.get("state", "."))
    count = int(options.get("changes", 0))
    cluster = Cluster(size)
    figures: Measured
    # Imported here: each measurement should have in memory what it needs and nothing else.
    if what == "program":
        from integration.bench import programming

        figures = programming.measure(cluster, state, routed="routed" in options)
    elif what == "change":
        from integration.bench import audit, changes, programming

        chain, _ = programming.program(cluster, state)
        figures = changes.measure(chain, cluster, count)
        figures.update({f"audit_{name}": value for name, value in audit.measure(chain).items()})
        figures["rows_in_kernel"] = chain.held()
    elif what == "floor":
        from integration.bench import changes
        from integration.bench.stand import INTERFACE

        figures = changes.measure_floor(cluster, socket.if_nametoindex(INTERFACE), count)
    elif what == "own":
        from integration.bench import own

        figures = own.measure(cluster, count, Path(options["source"]))
    elif what == "phases":
        from integration.bench import restart

        figures = restart.measure(Path(options["source"]), state)
    else:
        raise SystemExit(f"worker: nothing is called {what}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
