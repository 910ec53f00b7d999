"""The packet table on the iptables backend: one test for each stand.

Most stands are on the kernel that runs the tests, with the variant of iptables that it uses; in a guest, with legacy
iptables, are those that need SCTP, and counting of packets by their marks: marks of other programs stay, and none of
ours leaves the node. Every question is asked by two protocols that take turns, as on most stands of test_flows.py;
`python -m integration.flows --backend iptables` asks all.
"""

from __future__ import annotations

import pytest

from integration.flows.run import Run
from integration.flows.table import StandRow, covering, read_defects, read_table
from integration.lab.servers import has_sctp
from ipvsagent.kernel.iptables.commands import Mode
from tests.support.iptables import skip_unless_native

IN_GUEST = {"policies", "drop-out", "marks", "bit-20", "masq-all"}
TABLE = read_table(backend="iptables")
RUN = Run(TABLE, read_defects(backend="iptables"))
# Route mode is for IPVS alone.
STANDS = {stand.name: stand for stand in TABLE.stands if "--route-mode" not in stand.agent}


def faults(stand: StandRow, *, sctp: bool) -> list[str]:
    cases = [case for case in TABLE.cases if case.stand == stand.name and (sctp or case.protocol != "SCTP")]
    done = RUN.stand(stand, covering(cases, ()))
    assert done.results
    wrong = [f"{result.case.id}: {result.fault}" for result in done.results if RUN.mark(result) == "failed"]
    return [*wrong, *done.host_faults]


@pytest.mark.parametrize("stand", sorted(STANDS.keys() - IN_GUEST))
def test_packets_fare_as_the_table_says(stand: str) -> None:
    skip_unless_native(Mode.NFT)
    assert not faults(STANDS[stand], sctp=has_sctp())


@pytest.mark.kernel
@pytest.mark.parametrize("stand", sorted(IN_GUEST))
def test_packets_fare_as_the_table_says_in_a_guest(stand: str) -> None:
    assert not faults(STANDS[stand], sctp=True)
