"""Manages the sets that record which client went to which endpoint (render/iptables/nat_chains.py); the kernel fills
and ages them.

They are created before a rule names them. `SetTable` ignores them, because no desired row describes what they hold.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from ipvsagent.address import Family
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.definitions import Definitions
from ipvsagent.kernel.ipset.messages import SetInUse
from ipvsagent.rows import SetSpec
from ipvsagent.rows.nat_chains import CLIENT_SETS

KIND = "hash:ip,port,ip"
_TIMEOUT = 10800
"""Seconds; every rule that adds a member has its own."""


class ClientSets:
    """Creates and destroys these sets, for one thread."""

    def __init__(self) -> None:
        self._definitions: Definitions | None = None
        self._made: set[str] = set()

    def make(self, names: Collection[str]) -> None:
        """Create those that are missing. Raises KernelError, also for a kernel that has no such sets."""
        if not names or self._made.issuperset(names):
            return
        try:
            definitions = self._opened()
            self._made = {header.name for header in definitions.headers() if is_client_set(header.name)}
            for name in sorted(set(names) - self._made):
                family = Family.IPV6 if name.startswith(CLIENT_SETS[Family.IPV6]) else Family.IPV4
                definitions.create(SetSpec(name, KIND, family, timeout=_TIMEOUT))
                self._made.add(name)
        except StartError as error:
            raise KernelError.of(errno.EOPNOTSUPP, str(error)) from error

    def forget(self) -> None:
        """List what is there again before the next use: another program may have destroyed a set."""
        self._made.clear()

    def sweep(self, used: Collection[str]) -> None:
        """Destroy those that no rule names. Raises KernelError, StartError."""
        definitions = self._opened()
        self._made = {header.name for header in definitions.headers() if is_client_set(header.name)}
        for name in self._made - set(used):
            try:
                definitions.destroy([name])
            except SetInUse:
                continue
            self._made.discard(name)

    def close(self) -> None:
        if self._definitions is not None:
            self._definitions.close()
            self._definitions = None

    def _opened(self) -> Definitions:
        if self._definitions is None:
            self._definitions = Definitions(timeout=10.0)
        return self._definitions


def is_client_set(name: str) -> bool:
    return name.startswith(tuple(CLIENT_SETS.values()))
