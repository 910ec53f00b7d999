"""Command line: python -m integration.flows [--only PATTERN] [--stand NAME] [--failed] [--list].

Prints every case with a mark. Exit status 1 if one is not as the table says and no defect is known for it, or if a
known defect is gone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from integration.flows.run import Run
from integration.flows.stand import Through, sees_marks
from integration.flows.table import chosen, read_defects, read_table
from integration.lab import LabError
from integration.lab.servers import has_sctp


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m integration.flows", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose id contains this, or matches it")
    parser.add_argument("--stand", action="append", default=[], metavar="NAME", help="only there; may be repeated")
    parser.add_argument("--topology", choices=["routed", "bridge"], help="only stands of this kind")
    parser.add_argument("--backend", choices=["ipvs", "iptables"], default="ipvs", help="whose column is expected")
    parser.add_argument(
        "--through",
        type=Through,
        choices=list(Through),
        default=Through.FILES,
        metavar="files|api",
        help="where the agent reads Services from (files)",
    )
    parser.add_argument("--failed", action="store_true", help="print only what is not right")
    parser.add_argument("--list", action="store_true", help="print the cases, run nothing")
    parser.add_argument("--log", action="store_true", help="print what the agent wrote")
    options = parser.parse_args(argv)
    table = read_table(backend=options.backend)
    stands = options.stand
    if options.topology:
        stands = [s.name for s in table.stands if s.bridged is (options.topology == "bridge")]
    cases = chosen(table.cases, options.only, stands)
    without = [case for case in cases if case.protocol == "SCTP"] if not has_sctp() else []
    if not sees_marks():
        blind = {stand.name for stand in table.stands if stand.host == "marks"}
        without += [case for case in cases if case.stand in blind and case not in set(without)]
    cases = [case for case in cases if case not in set(without)]
    if options.list:
        for case in cases:
            print(f"{case.id}: {case.expected}{f'   ({case.upstream})' if case.upstream else ''}")
        return 0
    run = Run(table, read_defects(backend=options.backend), options.through)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    for row in table.stands:
        own = [case for case in cases if case.stand == row.name]
        if not own:
            continue
        if options.backend == "iptables" and "--route-mode" in row.agent:
            print(f"\n{row.name}: {len(own)} cases not asked: the iptables backend has no route mode")
            cases = [case for case in cases if case.stand != row.name]
            continue
        print(f"\n{row.name}: {len(own)} cases; ipvsagent run {' '.join(row.agent)}", flush=True)
        try:
            done = run.stand(row, own)
        except LabError as error:
            print(f"  NOT RUN  {error}")
            counts["failed"] += len(own)
            continue
        for result in done.results:
            mark = run.mark(result)
            counts[mark] += 1
            if mark != "ok" or not options.failed:
                note = run.note(result)
                print(f"  {mark:6}  {result.case.id.partition('/')[2]}: {result.fault or result.met}{note}")
        for fault in done.host_faults:
            counts["failed"] += 1
            print(f"  failed  {fault}")
        if options.log:
            print(done.log)
        print(f"  {done.built:.1f} s to build, {done.asked:.1f} s to ask", flush=True)
    for defect in run.gone():
        counts["failed"] += 1
        print(f"failed  defects.txt: no case fails any more as `{defect.cases} | {defect.met}` says: remove the line")
    seconds = time.monotonic() - began
    if without and not options.list:
        counted = Counter("SCTP" if case.protocol == "SCTP" else "counting of marks" for case in without)
        words = ", ".join(f"{number} need {what}" for what, number in sorted(counted.items()))
        print(f"\n{len(without)} cases not asked, because this kernel cannot: {words}. The guest's can.")
    print(f"\n{len(cases)} cases, {', '.join(f'{n} {mark}' for mark, n in sorted(counts.items()))}. {seconds:.0f} s.")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
