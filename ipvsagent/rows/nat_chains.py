"""Defines a virtual server as chains of iptables' nat table: the row of the iptables backend.

One row is one virtual server with all of its endpoints, because it is written and replaced as a whole. Its first chain
chooses an endpoint; a rule in one of a constant number of buckets jumps there. iptables does not print rules as they
were written, so rows are compared by the marks that their rules carry (see packet_rules.py).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ipvsagent.address import Family, pack
from ipvsagent.model import VirtualServerId
from ipvsagent.rows.packet_rules import CHAIN_PREFIX, COMMENT_PREFIX
from ipvsagent.rows.server_row import ServerRow
from ipvsagent.rows.verb import Verb

ENTRY, FOR_NODE, ENDPOINT, BUCKET = (f"{CHAIN_PREFIX}{kind}-" for kind in "SNEB")
"""Prefixes of the names of chains: the entry of a virtual server, its choice for clients on this node where that
differs, one of its endpoints, and a bucket."""

OWN_PREFIXES = (ENTRY, FOR_NODE, ENDPOINT)
BUCKETS = 64
CLIENT_SETS = {Family.IPV4: f"{CHAIN_PREFIX}CLIENTS-", Family.IPV6: f"{CHAIN_PREFIX}6-CLIENTS-"}
"""Prefixes of the sets that record the endpoint of each client (render/iptables/nat_chains.py)."""


class MarkedRule(Struct, frozen=True, gc=False):
    """Holds a rule, identified by the mark in its comment."""

    mark: str
    """"" if another program wrote the rule."""
    text: str
    """The rule as written, or as iptables-save prints it."""


class ServerChain(Struct, frozen=True, gc=False):
    """Holds one of the chains of a virtual server."""

    name: str
    rules: tuple[MarkedRule, ...] = ()


class ChainsRow(ServerRow, frozen=True, eq=False, gc=False):
    """Holds all chains of a virtual server.

    Two rows are equal if they have the same chains with the same marks, whatever the texts.
    """

    bucket: str
    dispatch: MarkedRule
    """The rule in `bucket` that jumps to the first of `chains`."""
    chains: tuple[ServerChain, ...]
    client_sets: tuple[str, ...] = ()
    """The sets that the rules name."""

    def command(self, verb: Verb) -> str:
        """Return one command in place of the many that write the row."""
        lines = {Verb.ADD: f"-A {self.bucket}", Verb.SET: f"-F {self.chains[0].name}", Verb.DELETE: f"-D {self.bucket}"}
        rest = "" if verb is Verb.SET else f" {self.dispatch.text}"
        return f"{_tool_of(self)} -t nat {lines[verb]}{rest}"

    def signature(self) -> tuple[object, ...]:
        """Return what two equal rows have in common; the kernel orders chains by itself."""
        chains = sorted((chain.name, *(rule.mark for rule in chain.rules)) for chain in self.chains)
        return self.id, self.bucket, self.dispatch.mark, chains

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChainsRow) and self.signature() == other.signature()

    def __ne__(self, other: object) -> bool:  # Struct defines its own
        return not self == other

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return f"-A {self.bucket} {self.dispatch.text}"


def chain_name(prefix: str, *words: object) -> str:
    """Return a name that is a hash of the words: 16 characters after the prefix."""
    digest = hashlib.blake2s(" ".join(map(str, words)).encode(), digest_size=10).digest()
    return prefix + base64.b32encode(digest).decode()


def server_chain(name: str, rules: Iterable[tuple[str, str]]) -> ServerChain:
    """Return a chain. rules: each with a remark for people, which may be empty."""
    marked = []
    for position, (rule, remark) in enumerate(rules):
        marked.append(marked_rule(rule, remark, name, position))
    return ServerChain(name, tuple(marked))


def marked_rule(rule: str, remark: str, *place: object) -> MarkedRule:
    """Return a rule with a comment that has its mark, a hash of the rule and its place, and the remark."""
    text = " ".join(map(str, ("nat", *place, rule, remark)))
    mark = hashlib.blake2s(text.encode(), digest_size=5).hexdigest()
    comment = f'"{COMMENT_PREFIX}{mark} {remark}"' if remark else f"{COMMENT_PREFIX}{mark}"
    return MarkedRule(mark, f"{rule} -m comment --comment {comment}")


def bucket_number(server_id: VirtualServerId) -> int:
    """Return the number of a virtual server's bucket: the last bits of its address, which a rule can match with a mask.

    Only u32 and bpf match bits of a port, and not every kernel has them. So the node ports of one address are in one
    bucket; kube-proxy has those of all addresses in one chain (pkg/proxy/iptables/proxier.go, KUBE-NODEPORTS). Only the
    first packet of a connection passes through it.
    """
    return pack(server_id.address)[-1] % BUCKETS


def bucket_name(number: int) -> str:
    return f"{BUCKET}{number:02x}"


def bucket_names() -> list[str]:
    return [bucket_name(number) for number in range(BUCKETS)]


def added_lines(row: ChainsRow) -> Iterator[str]:
    """Yield the lines that add a row, for `iptables-restore --noflush`."""
    yield from _chain_lines(row.chains)
    yield f"-A {row.bucket} {row.dispatch.text}"


def replaced_lines(row: ChainsRow, held: ChainsRow) -> Iterator[str]:
    """Yield the lines that replace a row. Only chains that differ are written; those no longer needed are deleted
    last."""
    before = {chain.name: chain for chain in held.chains}
    yield from _chain_lines(chain for chain in row.chains if _marks(chain) != _marks(before.get(chain.name)))
    if (row.bucket, row.dispatch.mark) != (held.bucket, held.dispatch.mark):
        yield f"-A {row.bucket} {row.dispatch.text}"
        yield f"-D {held.bucket} {held.dispatch.text}"
    kept = {chain.name for chain in row.chains}
    yield from chains_removed(chain.name for chain in held.chains if chain.name not in kept)


def deleted_lines(held: ChainsRow) -> Iterator[str]:
    """Yield the lines that delete a row."""
    yield f"-D {held.bucket} {held.dispatch.text}"
    yield from chains_removed(chain.name for chain in held.chains)


def commands(verb: Verb, row: ChainsRow) -> list[str]:
    """Return the commands that do the same on a command line; a row to be deleted must have the rules that are held."""
    lines = []
    for chain in row.chains:
        if verb is Verb.ADD:
            lines.append(f"-N {chain.name}")
        elif verb is Verb.SET:
            lines.append(f"-F {chain.name}")
    if verb is Verb.DELETE:
        lines.append(f"-D {row.bucket} {row.dispatch.text}")
        lines += [f"-F {chain.name}" for chain in row.chains] + [f"-X {chain.name}" for chain in row.chains]
    else:
        lines += [f"-A {chain.name} {rule.text}" for chain in row.chains for rule in chain.rules]
    if verb is Verb.ADD:
        lines.append(str(row))
    return [f"{_tool_of(row)} -t nat {line}" for line in lines]


def rule_count(row: ChainsRow) -> int:
    """Return how many rules a row has, the one in its bucket included."""
    return 1 + sum(len(chain.rules) for chain in row.chains)


def _tool_of(row: ChainsRow) -> str:
    return "ip6tables" if row.id.family is Family.IPV6 else "iptables"


def _chain_lines(chains: Iterable[ServerChain]) -> Iterator[str]:
    """Yield the lines that write chains. All are declared before any rule, since rules jump between them; a declaration
    also empties a chain that exists."""
    listed = list(chains)
    for chain in listed:
        yield f":{chain.name} - [0:0]"
    for chain in listed:
        for rule in chain.rules:
            yield f"-A {chain.name} {rule.text}"


def chains_removed(names: Iterable[str]) -> Iterator[str]:
    """Yield the lines that empty chains and delete them."""
    listed = list(names)
    for name in listed:
        yield f":{name} - [0:0]"
    for name in listed:
        yield f"-X {name}"


def _marks(chain: ServerChain | None) -> list[str] | None:
    return [rule.mark for rule in chain.rules] if chain else None
