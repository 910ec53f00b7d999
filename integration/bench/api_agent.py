"""`python -m integration.bench.api_agent ARGUMENTS`: `ipvsagent ARGUMENTS`, with a witness.

Whenever a small write to IPVS has returned, which is when the kernel has acknowledged it, standard output gets the time
on the monotonic clock, and what was written, as arguments of ipvsadm.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from ipvsagent.cli import main
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.rows import Failure, Op

_write = IpvsTable.write
_FEW = 10


def _witnessed(self: IpvsTable, ops: Sequence[Op]) -> list[Failure]:
    failures = _write(self, ops)
    if 0 < len(ops) <= _FEW:
        os.write(1, f"{time.monotonic()} {'; '.join(map(str, ops))}\n".encode())
    return failures


if __name__ == "__main__":
    IpvsTable.write = _witnessed  # type: ignore[method-assign]
    main(sys.argv[1:])
