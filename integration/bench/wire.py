"""How fast tables are packed, written and read.

    python -m integration.bench.wire                          our own part: packing and unpacking
    python -m integration.guest -- .venv/bin/python -m integration.bench.wire --kernel [SERVICES...]

With --kernel it programs the kernel it runs on, in a network namespace that is new for each number of Services:
after deletions a namespace is slow for minutes. CPU is this process's own, user and system.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

from ipvsagent.address import Address, pack
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipvs import answers, requests
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.netlink import Body, attribute
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import AddressRow, Op, RealServerRow, Verb, VirtualServerRow

REAL_SERVERS = 10


def server_id(n: int) -> VirtualServerId:
    return VirtualServerId(Protocol.TCP, Address(f"10.96.{n >> 8 & 255}.{n & 255}"), 80)


def additions(services: int) -> list[Op]:
    ops = []
    for n in range(services):
        server = server_id(n)
        ops.append(Op(Verb.ADD, VirtualServerRow(server, "rr")))
        for m in range(REAL_SERVERS):
            address = Address(f"10.{1 + m}.{n >> 8 & 255}.{n & 255}")
            ops.append(Op(Verb.ADD, RealServerRow(server, address, 8080)))
    return ops


@contextlib.contextmanager
def measured(what: str, count: int) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what:42} {wall:8.3f} s  cpu {cpu:7.3f} s  {wall / count * 1e6:8.2f} us each", flush=True)


def codec(services: int) -> None:
    ops = additions(services)
    total = len(ops)
    with measured(f"pack {total} additions", total):
        packed, errors = requests.pack_ops(27, ops, 1)
    with measured(f"join {total} messages", total):
        for start in range(0, total, 1000):
            bytearray().join(packed[start : start + 1000])
    assert not errors
    deletions = [Op(Verb.DELETE, op.row) for op in ops]
    with measured(f"pack {total} deletions", total):
        requests.pack_ops(27, deletions, 1)
    server = server_id(1)
    bodies = [recorded_dest(op.row.address) for op in ops if isinstance(op.row, RealServerRow)]
    with measured(f"unpack {len(bodies)} real servers", len(bodies)):
        for body in bodies:
            answers.unpack_dest(server, body)


def recorded_dest(address: Address) -> Body:
    """As Linux 6.1 lays it out, statistics all zero."""
    numbers = {3: "=I", 4: "=I", 13: "=B", 14: ">H", 15: "=H", 5: "=I", 6: "=I", 7: "=I", 8: "=I", 9: "=I"}
    content = attribute(1, pack(address).ljust(16, b"\0")) + attribute(2, struct.pack(">H", 8080))
    content += b"".join(attribute(kind, struct.pack(form, 0)) for kind, form in numbers.items())
    content += attribute(11, struct.pack("=H", socket.AF_INET)) + bytes(260)
    data = struct.pack("=BBH", 5, 1, 0) + attribute(2, content)
    return Body(data, 0, len(data))


def kernel(services: int) -> None:
    own = AddressTable()
    own.ensure_interface()
    table = IpvsTable(Ownership(Ledger(None), own.bound))
    ops = additions(services)
    with measured(f"write {len(ops)} rows", len(ops)):
        assert table.write(ops) == []
    with measured("services alone", services):
        assert len(list(table.services())) == services
    with measured(f"read {len(ops)} rows", len(ops)):
        assert sum(1 for _ in table.read(None)) == len(ops)
    some = [server_id(n) for n in range(0, services, max(1, services // 100))]
    with measured(f"read {len(some)} virtual servers", len(some)):
        assert sum(1 for _ in table.read(some)) == len(some) * (1 + REAL_SERVERS)
    edits = [Op(Verb.SET, RealServerRow(r.server, *r.key, 2)) for r in (o.row for o in ops) if type(r) is RealServerRow]
    with measured(f"set {len(edits)} weights", len(edits)):
        assert table.write(edits) == []
    with measured("one weight at a time, 200 times", 200):
        for op in edits[:200]:
            table.write([op])
    addresses = [Op(Verb.ADD, AddressRow(server_id(n).address)) for n in range(services)]
    with measured(f"bind {services} addresses", services):
        assert own.write(addresses) == []
    with measured(f"read {services} addresses", services):
        assert len(list(own.read(None))) == services
    with measured(f"unbind {services} addresses", services):
        assert own.write([Op(Verb.DELETE, op.row) for op in addresses]) == []
    with measured(f"delete {services} virtual servers", services):
        assert table.write([Op(Verb.DELETE, op.row) for op in ops if type(op.row) is VirtualServerRow]) == []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="store_true")
    parser.add_argument("services", nargs="*", type=int, default=[1000, 10000])
    options = parser.parse_args()
    for services in options.services:
        print(f"{services} Services with {REAL_SERVERS} real servers each")
        if not options.kernel:
            codec(services)
        elif pid := os.fork():
            os.waitpid(pid, 0)
        else:
            new_network_namespace()
            kernel(services)
            os._exit(0)


def new_network_namespace() -> None:
    import ctypes

    clone_newnet = 0x40000000
    if ctypes.CDLL(None).unshare(clone_newnet) != 0:
        raise SystemExit("needs root: run it in the guest, see --help")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


if __name__ == "__main__":
    main()
