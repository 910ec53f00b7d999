"""Holds what each backend opens of the kernel as one value, so that a test can give a backend other tables.

Opening only reads.
"""

from __future__ import annotations

from msgspec import Struct

from ipvsagent.backends.assembly import ledger_path, state_path
from ipvsagent.config import Config
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset.client_sets import ClientSets
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Variant, find_variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.kube_proxy.sets import claim_kube_proxy_servers
from ipvsagent.kernel.reserved_ports import ReservedPorts
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.kernel.sysctls import RaisedSysctls
from ipvsagent.packet_filter.profiles import families
from ipvsagent.render.set_members import VIP_SETS
from ipvsagent.rows import KernelTable


class SavedSettings(Struct):
    """Records which settings of the host the agent changed, so that they can be restored."""

    raised: RaisedSysctls
    """arp_ignore and arp_announce of interfaces."""
    localhost: RaisedSysctls
    """route_localnet."""
    reserved: ReservedPorts


class IpvsHandles(Struct):
    """Holds what the IPVS backend needs of the kernel."""

    addresses: AddressTable
    routes: RouteTable
    ownership: Ownership
    ipvs: IpvsTable
    sets: SetTable
    saved: SavedSettings
    translations: KernelTable | None = None
    """None = those of the packet filter that the backend opens."""


class IptablesHandles(Struct):
    """Holds what the iptables backend needs of the kernel."""

    addresses: AddressTable
    sets: SetTable
    servers: ServerRules
    saved: SavedSettings


def saved_settings(config: Config) -> SavedSettings:
    return SavedSettings(
        RaisedSysctls(state_path(config, "raised")),
        RaisedSysctls(state_path(config, "localhost")),
        ReservedPorts(state_path(config, "reserved")),
    )


def open_ipvs_handles(config: Config, *, load_modules: bool = False) -> IpvsHandles:
    """Open the kernel for the IPVS backend. Raises StartError, and IpvsAbsent if the kernel has no IPVS.

    load_modules: whether ip_vs may be loaded.
    """
    host.require_privilege()
    host.require_ip_vs(load=load_modules)
    addresses = AddressTable(config.interface)
    routes = RouteTable(addresses)
    bound, routed = addresses.refresh(), routes.refresh()
    ownership = Ownership(Ledger(ledger_path(config)), bound, map(str, config.excluded), routed)
    sets = SetTable()
    claim_kube_proxy_servers(ownership, sets, addresses)
    return IpvsHandles(addresses, routes, ownership, IpvsTable(ownership), sets, saved_settings(config))


def open_iptables_handles(config: Config, variant: Variant | None = None) -> IptablesHandles:
    """Open the kernel for the iptables backend. Raises StartError.

    variant: what `find_variant` returned, if a caller has just called it.
    """
    host.require_privilege()
    clients = ClientSets()
    addresses, sets = AddressTable(config.interface), SetTable(leaves=VIP_SETS)
    variant = variant or find_variant()
    servers = ServerRules(ServerChains(KernelRules(family, variant), clients.make) for family in families())
    return IptablesHandles(addresses, sets, servers, saved_settings(config))
