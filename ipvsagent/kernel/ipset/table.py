"""Reads and writes members of our ipsets, in which packet rules look up Services.

It knows ipset's protocol, and nothing of Services. A set is ours if its name begins with PREFIX.

1. Cost follows the change: a member is one message of about 80 bytes, a thousand of which are one system call.
2. Nothing is assumed: the kernel is asked what a set is (kind, family, size) before the first write to it.
3. A set is never empty while its definition changes: a spare set is filled, and the two are swapped.
4. A full set is an error of its own type that names the set. Nothing is dropped silently.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.client_sets import is_client_set
from ipvsagent.kernel.ipset.definitions import PREFIX, SPARE, TRIAL, Definitions
from ipvsagent.kernel.ipset.members import KINDS, key_of, pack_member, unpack_members
from ipvsagent.kernel.ipset.messages import ADD, DEL, EXIST, LIST, TEST, SetHeader, members_of, refusal
from ipvsagent.kernel.netlink import message
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, SetMemberRow, SetSpec, Verb


class SetTable:
    """Implements the `KernelTable` of `SetMemberRow`, for one thread. Raises StartError if the kernel has no ipset.

    A DELETE is for exactly the member it names: one whose options have changed since stays, because the kernel, which
    finds members by key, would delete the new one.
    """

    def __init__(self, timeout: float = 10.0, *, leaves: Collection[str] = ()) -> None:
        """leaves: sets whose members `read` leaves out."""
        self._leaves = frozenset(leaves)
        self._definitions = Definitions(timeout)
        self._socket = self._definitions.socket
        self._headers: dict[str, SetHeader] = {}
        self._options: dict[tuple[str, str], str] = {}  # by set and key, of members that have or may get any

    def close(self) -> None:
        self._socket.close()

    def ensure(self, specs: Iterable[SetSpec]) -> None:
        """Create what is missing and replace sets of another definition. Raises StartError, KernelError."""
        wanted = list(specs)
        self.state()
        for spec in wanted:
            held = self._headers.get(spec.name)
            if held is None:
                self._definitions.create(spec)
            elif not held.fits(spec):
                self._replace(held, spec)
        self.state()

    def state(self) -> dict[str, SetHeader]:
        """Return our sets by name, with their number of elements and references: one message, whatever they hold."""
        found = self._definitions.headers()
        self._headers = {header.name: header for header in found if is_ours(header.name)}
        return dict(self._headers)

    def sweep(self, specs: Iterable[SetSpec]) -> None:
        """Destroy sets that older agents made: those that no spec names and no rule uses. Raises KernelError."""
        known = {spec.name for spec in specs}
        self.remove([h.name for h in self.state().values() if h.name not in known and not h.references])

    def remove(self, names: Iterable[str] | None = None) -> None:
        """Destroy sets with their members; None = all of ours. Missing ones are not errors. Raises SetInUse."""
        if names is None:
            self.state()
            names = [header.name for header in self._definitions.headers() if header.name.startswith(PREFIX)]
        gone = list(names)
        for name in gone:
            self._headers.pop(name, None)
        self._options = {key: text for key, text in self._options.items() if key[0] not in gone}
        self._definitions.destroy(gone)

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Read all members of our sets, or those of the asked rows that are there."""
        if keys is None:
            self._options.clear()
            found = [row for name in self.state() if name not in self._leaves for row in self._members(name)]
        else:
            found = self._present([row for row in keys if isinstance(row, SetMemberRow)])
        return iter([Observed(row, Owner.OURS) for row in found])

    def members(self, names: Iterable[str]) -> list[SetMemberRow]:
        """Return all members of these sets; none of one that is not there."""
        held = self.state()
        return [row for name in names if name in held for row in self._members(name)]

    def others(self, kinds: Mapping[str, str]) -> list[SetMemberRow]:
        """Read members of sets of other programs, by name and the kind that each has to have."""
        rows = []
        for header in self._definitions.headers():
            if kinds.get(header.name) == header.kind:
                bodies = self._socket.dump(LIST, self._definitions.codec.named(header.name))
                texts = [text for body in bodies for text in unpack_members(members_of(body))]
                rows += [SetMemberRow(header.name, text) for text in texts]
        return rows

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        first = self._socket.reserve(len(ops))
        packed: list[bytes] = []
        errors: dict[int, KernelError] = {}
        names: dict[str, bytes] = {}
        for sequence, op in enumerate(ops, first):
            row = op.row
            if type(row) is not SetMemberRow:
                errors[sequence] = KernelError.of(errno.EINVAL, "not sent: it is not a member of a set")
                continue
            header = self._header(row.set)
            if header is None:
                if op.verb is not Verb.DELETE:
                    errors[sequence] = refusal(KernelError.of(errno.ENOENT), row.set)
                continue
            try:
                body = self._body(header, row, names)
            except ValueError as error:
                errors[sequence] = KernelError.of(errno.EINVAL, f"not sent: {error}")
                continue
            if self._note(op.verb, row):
                packed.append(message(DEL if op.verb is Verb.DELETE else ADD, 0, sequence, body))
        errors.update(self._socket.send(packed))
        if not errors:
            return []
        return [
            Failure(op, refusal(errors[sequence], _set_of(op), self._size_of(op)))
            for sequence, op in enumerate(ops, first)
            if sequence in errors and not self._is_done_already(op, errors[sequence])
        ]

    def _note(self, verb: Verb, row: SetMemberRow) -> bool:
        """Record members with options; return whether the op is to be sent."""
        key, _, options = row.member.partition(" ")
        known = self._options.get((row.set, key))
        if verb is not Verb.DELETE:
            if options or known is not None or self._headers[row.set].skbinfo:
                self._options[row.set, key] = options
            return True
        if known is None:
            return True
        if known != options:
            return False
        del self._options[row.set, key]
        return True

    def _is_done_already(self, op: Op, error: KernelError) -> bool:
        if op.verb is not Verb.DELETE and isinstance(op.row, SetMemberRow):
            self._options.pop((op.row.set, key_of(op.row.member)), None)
        if error.code == errno.ENOENT:
            self._headers.pop(_set_of(op), None)
        return op.verb is Verb.DELETE and error.code in (errno.ENOENT, EXIST)

    def _present(self, rows: Sequence[SetMemberRow]) -> list[SetMemberRow]:
        asked = [row for row in rows if self._header(row.set) is not None]
        listed = {row.set for row in asked if not self._can_be_tested(row)}
        held = {row for name in listed for row in self._members(name)}
        found = [row for row in asked if row in held]
        packed: list[bytes] = []
        tested: list[SetMemberRow] = []
        names: dict[str, bytes] = {}
        asked = [row for row in asked if row.set not in listed]
        first = self._socket.reserve(len(asked))
        for row in asked:
            try:
                body = self._body(self._headers[row.set], row, names)
            except ValueError:
                continue  # the kernel cannot hold it either
            packed.append(message(TEST, 0, first + len(tested), body))
            tested.append(row)
        errors = self._socket.send(packed)
        for sequence, row in enumerate(tested, first):
            error = errors.get(sequence)
            if error is None:
                found.append(row)
            elif error.code not in (EXIST, errno.ENOENT):
                raise refusal(error, row.set)
        return found

    def _can_be_tested(self, row: SetMemberRow) -> bool:
        """Return whether the kernel's own test will do: it ignores options, and finds an address in any network that
        has it."""
        header = self._headers[row.set]
        return not (header.skbinfo or " " in row.member or (header.kind.endswith("net") and "/" not in row.member))

    def _members(self, name: str) -> list[SetMemberRow]:
        try:
            bodies = self._socket.dump(LIST, self._definitions.codec.named(name))
        except KernelError as error:
            if error.code == errno.ENOENT:  # it was destroyed meanwhile
                return []
            raise refusal(error, name) from error
        if self._headers[name].kind not in KINDS:
            return []
        rows = [SetMemberRow(name, text) for body in bodies for text in unpack_members(members_of(body))]
        for row in rows:
            if " " in row.member or self._headers[name].skbinfo:
                key, _, options = row.member.partition(" ")
                self._options[name, key] = options
        return rows

    def _replace(self, held: SetHeader, spec: SetSpec) -> None:
        if (held.kind, held.family) != (spec.kind, spec.family):  # what it holds means something else
            if held.references:
                raise cannot_replace(spec.name, "rules use it, and sets of different kinds cannot be swapped")
            self._definitions.destroy([spec.name])
            self._definitions.create(spec)
            return
        self._definitions.destroy([SPARE])
        self._definitions.create(spec, SPARE)
        self._headers[SPARE] = held
        members = [SetMemberRow(SPARE, row.member) for row in self._members(spec.name)]
        if not spec.skbinfo:
            members = [SetMemberRow(SPARE, key_of(row.member)) for row in members]
        failures = self.write([Op(Verb.ADD, row) for row in members])
        if failures:
            self._definitions.destroy([SPARE])
            raise cannot_replace(spec.name, f"its {len(members)} members do not fit: {failures[0].error}")
        self._definitions.swap(SPARE, spec.name)
        self._definitions.destroy([SPARE])
        self._options.clear()

    def _header(self, name: str) -> SetHeader | None:
        if name not in self._headers:
            self.state()
        return self._headers.get(name)

    def _body(self, header: SetHeader, row: SetMemberRow, names: dict[str, bytes]) -> bytes:
        codec = self._definitions.codec
        name = names.get(row.set)
        if name is None:
            name = names[row.set] = codec.named(row.set)
        if header.family is None or header.kind not in KINDS:
            raise ValueError(f"set {row.set} is of kind {header.kind}, which ours never are")
        return codec.member(name, pack_member(header.kind, header.family, row.member))

    def _size_of(self, op: Op) -> int | None:
        header = self._headers.get(_set_of(op))
        return header.max_elements if header else None


def is_ours(name: str) -> bool:
    """Return whether our `SetMemberRow`s are about it."""
    return name.startswith(PREFIX) and name not in (SPARE, TRIAL) and not is_client_set(name)


def _set_of(op: Op) -> str:
    return op.row.set if isinstance(op.row, SetMemberRow) else ""


def cannot_replace(name: str, why: str) -> StartError:
    return StartError(
        f"set {name} exists with another definition and cannot be replaced: {why}",
        f"Run `ipvsagent cleanup`, or remove the rules that use it and `ipset destroy {name}`",
    )
