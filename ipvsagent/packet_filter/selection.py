"""The choice of the rule tool. This is the only module that names the packet filters."""

from __future__ import annotations

from collections.abc import Sequence

from ipvsagent.config import Config
from ipvsagent.kernel.iptables.rule_table import RuleTable
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.packet_filter.profiles import RuleProfile


def open_packet_filter(config: Config, profile: RuleProfile, tables: Sequence[RuleTable] = ()) -> PacketFilter:
    """Open the packet rules of a backend. Raises StartError if their tool is not installed.

    tables: one of every family, if the rules share them with chains of virtual servers.
    """
    return IptablesPacketFilter(config, profile, tables)
