"""Does the work of `cleanup`: removes what every backend serves, and what backends have in common on a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from ipvsagent.backends.assembly import ledger_path, socket_path
from ipvsagent.backends.backend import Backend
from ipvsagent.backends.kernel_handles import SavedSettings, saved_settings
from ipvsagent.config import Config
from ipvsagent.errors import StartError
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.kernel.sysctls import LOCALHOST
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.packet_filter.profiles import BESIDE_IPVS
from ipvsagent.packet_filter.selection import open_packet_filter
from ipvsagent.rows import Failure, Op, Verb


class SharedState(Struct):
    """Holds what an agent leaves on a node, whichever backend it has."""

    addresses: AddressTable
    routes: RouteTable
    sets: SetTable
    rules: PacketFilter
    saved: SavedSettings
    files: tuple[Path, ...]


class RemovalPlan(Struct, frozen=True):
    """Lists what there is to remove."""

    ops: list[Op]
    packet_rules: list[str]
    """The commands that would remove them."""
    sets: list[str]
    """The names of the sets."""
    has_interface: bool


class Removal:
    """Removes everything that agents made on this node."""

    def __init__(self, backends: Sequence[Backend], shared: SharedState) -> None:
        self._backends = backends
        self._shared = shared

    def plan(self) -> RemovalPlan:
        """Return what `remove` would remove. This only reads."""
        ops = [op for backend in self._backends for op in backend.removals()]
        shared = self._shared
        planned = {op.row for op in ops}
        routes = [op for op in self._remaining_routes() if op.row not in planned]  # where no backend removes them
        has_interface = shared.addresses.has_interface()
        return RemovalPlan([*routes, *ops], shared.rules.removals(), sorted(shared.sets.state()), has_interface)

    def remove(self) -> list[Failure]:
        """Remove everything. If an op fails, stop and return the failures. Raises KernelError, StartError."""
        for backend in self._backends:
            if failures := backend.remove():
                return failures
        shared = self._shared
        self._close_localhost()
        shared.rules.remove()
        shared.sets.remove()
        shared.addresses.remove_interface()
        if routes := self._remaining_routes():
            shared.routes.write(routes)
        shared.saved.raised.restore()
        shared.saved.reserved.restore()
        for path in shared.files:
            path.unlink(missing_ok=True)
        return []

    def _remaining_routes(self) -> list[Op]:
        return [Op(Verb.DELETE, seen.row) for seen in self._shared.routes.read(None)]

    def _close_localhost(self) -> None:
        """Restore route_localnet while the rule that keeps other hosts from 127.0.0.0/8 is still there. Raises
        StartError."""
        try:
            self._shared.saved.localhost.restore()
        except OSError as error:
            raise StartError(
                f"{LOCALHOST.name} cannot be restored ({error.strerror}), and without our rules it opens this node's "
                "127.0.0.0/8 to other hosts",
                f"Run on the host `sysctl -w {LOCALHOST.name}=0`, then this again",
            ) from error


def open_shared_state(config: Config) -> SharedState:
    """Open the kernel, which only reads it. Raises StartError."""
    addresses = AddressTable(config.interface)
    return SharedState(
        addresses,
        RouteTable(addresses),
        SetTable(),
        open_packet_filter(config, BESIDE_IPVS),
        saved_settings(config),
        (socket_path(config), ledger_path(config)),
    )
