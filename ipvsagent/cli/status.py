"""Implements the command `ipvsagent status`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from ipvsagent.backends.assembly import socket_path
from ipvsagent.backends.selection import open_active_backend, open_ipvs_table
from ipvsagent.cli.options import config_files, found_by, interface, state_dir
from ipvsagent.cli.output import print_document
from ipvsagent.errors import IpvsAgentError
from ipvsagent.kernel import host
from ipvsagent.kernel.ipvs.connections import connections
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.ipvs.timeouts import idle_timeouts
from ipvsagent.model import Protocol
from ipvsagent.status import ipvsadm, ipvsadm_tables, native
from ipvsagent.status.document import document
from ipvsagent.status.ipvsadm import Columns
from ipvsagent.status.ipvsadm_options import ListOptions
from ipvsagent.status.ipvsadm_order import grouped
from ipvsagent.status.socket import ask
from ipvsagent.status.timeouts import timeout_lines

_SERVICES = {
    "tcp_service": Protocol.TCP,
    "udp_service": Protocol.UDP,
    "sctp_service": Protocol.SCTP,
    "fwmark_service": Protocol.FWM,
}


@click.command(name="status")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["native", "ipvsadm", "json", "yaml"]),
    default="native",
    show_default=True,
    help="ipvsadm prints exactly what `ipvsadm -Ln` does. The options from -t to --nosort need it, and are ipvsadm's.",
)
@click.option("-t", "--tcp-service", multiple=True, metavar="ADDRESS[:PORT]", help="Show only this virtual server.")
@click.option("-u", "--udp-service", multiple=True, metavar="ADDRESS[:PORT]", help="Same, for UDP.")
@click.option("--sctp-service", multiple=True, metavar="ADDRESS[:PORT]", help="Same, for SCTP.")
@click.option("-f", "--fwmark-service", multiple=True, metavar="MARK", help="Same, for a firewall mark.")
@click.option("-6", "--ipv6", is_flag=True, help="The MARK of -f is for IPv6.")
@click.option("-c", "--connections", "--connection", is_flag=True, help="Show connections instead.")
@click.option("--timeout", is_flag=True, help="Show timeouts instead; by default also of connection tracking.")
@click.option("--daemon", is_flag=True, help="Show connection synchronization daemons instead.")
@click.option("--stats", is_flag=True, help="Show connections, packets and bytes since the start.")
@click.option("--rate", is_flag=True, help="Show connections, packets and bytes per second.")
@click.option("--thresholds", is_flag=True, help="Show connection thresholds.")
@click.option(
    "--persistent-conn", is_flag=True, help="Show persistent connections; with -c, their persistence engine's data."
)
@click.option("--tun-info", is_flag=True, help="Show how tunnels encapsulate.")
@click.option("--exact", "-X", is_flag=True, help="Print large numbers in full.")
@click.option("--nosort", is_flag=True, help="Keep the order of the kernel.")
@interface
@state_dir
@config_files
def command(output: str, files: tuple[Path, ...], interface: str | None, state_dir: Path | None, **listing: Any) -> int:
    """Show the virtual servers of this node and the Services they belong to.

    Virtual servers, real servers and counters are read from the kernel (from iptables rules with that backend); names,
    conditions and drains come from the agent, if one runs here. Works without an agent, too.
    """
    options = _list_options(output, listing)
    config = found_by(files, interface, state_dir)
    if output == "ipvsadm":
        _print_listing(open_ipvs_table(config), options)
        return 0
    if options.timeout:
        _print_timeouts(open_ipvs_table(config), output)
        return 0
    host.require_privilege()
    snapshot = ask(socket_path(config))
    backend = open_active_backend(config, snapshot.backend if snapshot else "")
    held = backend.listing(counters=output != "native")
    shown = document(backend.name, held.version, held.table_size, held.entries, snapshot, held.names)
    if output != "native":
        print_document(shown, output)
        return 0
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for text, style in native.lines(shown):
        click.echo(click.style(text, **_STYLES[style]) if colour and style else text)  # type: ignore[arg-type]
    return 0


_STYLES: dict[str, dict[str, object]] = {
    "bold": {"bold": True},
    "dim": {"dim": True},
    **{name: {"fg": name} for name in ("red", "green", "yellow", "cyan")},
}


def _list_options(output: str, given: dict[str, Any]) -> ListOptions:
    named = [name for name, value in given.items() if value and name != "timeout"]
    if named and output != "ipvsadm":
        raise click.UsageError(f"--{named[0].replace('_', '-')} needs -o ipvsadm")
    services = tuple((protocol, text) for name, protocol in _SERVICES.items() for text in given.pop(name))
    options = ListOptions(services=services, **given)
    if reason := options.conflict():
        raise click.UsageError(reason)
    try:
        options.virtual_server()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return options


def _print_timeouts(table: IpvsTable, output: str) -> None:
    timeouts = idle_timeouts(table)
    if output == "native":
        for text, _ in timeout_lines(timeouts):
            click.echo(text)
    else:
        print_document(timeouts, output)


def _print_listing(table: IpvsTable, options: ListOptions) -> None:
    if options.connections:
        for line in ipvsadm_tables.connection_lines(connections(), persistence=options.persistent_conn):
            click.echo(line.encode(errors="surrogateescape"), nl=False)
    elif options.timeout:
        click.echo(ipvsadm_tables.timeout_line(table.timeouts()), nl=False)
    elif options.daemon:
        click.echo("".join(ipvsadm_tables.daemon_lines(table.sync_daemons())), nl=False)
    else:
        server, columns = options.virtual_server(), options.columns
        counters = columns in (Columns.STATS, Columns.RATE)
        entries = grouped(table.read(None if server is None else [server], counters))
        if server is None:
            info = table.info()
            click.echo(ipvsadm.version_line(info.version, info.table_size), nl=False)
        elif not entries:
            raise IpvsAgentError(f"IPVS has no virtual server {server}")
        click.echo(ipvsadm.listing(entries, columns, exact=options.exact, nosort=options.nosort), nl=False)
