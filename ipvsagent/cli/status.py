"""`ipvsagent status`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ipvsagent.cli.options import interface, state_dir
from ipvsagent.cli.output import print_document
from ipvsagent.config import Config
from ipvsagent.node import Node
from ipvsagent.rows import Observed, VirtualServerRow
from ipvsagent.status import ipvsadm, native
from ipvsagent.status.document import document
from ipvsagent.status.socket import ask


@click.command(name="status")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["native", "ipvsadm", "json", "yaml"]),
    default="native",
    show_default=True,
    help="ipvsadm: exactly what `ipvsadm -Ln` prints.",
)
@interface
@state_dir
def command(output: str, interface: str, state_dir: Path) -> int:
    """Show what IPVS holds, with the Services it stands for.

    Rows and counters come from the kernel; names, conditions and drains from the agent, if one runs here.
    Works without an agent, too.
    """
    node = Node(Config(interface=interface, state_dir=state_dir))
    info = node.ipvs.info()
    entries = _entries(node)
    if output == "ipvsadm":
        click.echo(ipvsadm.version_line(info.version, info.table_size) + ipvsadm.listing(entries), nl=False)
        return 0
    shown = document(info.version, info.table_size, entries, ask(node.socket_path))
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


def _entries(node: Node) -> list[tuple[Observed, list[Observed]]]:
    entries: list[tuple[Observed, list[Observed]]] = []
    for seen in node.ipvs.read(None):
        if isinstance(seen.row, VirtualServerRow):
            entries.append((seen, []))
        else:
            entries[-1][1].append(seen)
    return entries
