"""`ipvsagent save`."""

from __future__ import annotations

from pathlib import Path

import click

from ipvsagent.choice import open_ipvs
from ipvsagent.cli.options import interface, state_dir
from ipvsagent.config import Config
from ipvsagent.status.ipvsadm_order import grouped
from ipvsagent.status.ipvsadm_rules import saved


@click.command(name="save")
@click.option(
    "--thresholds",
    is_flag=True,
    help="Add what `ipvsadm -Sn` loses: thresholds, and marks and scheduler flags that it misspells.",
)
@interface
@state_dir
def command(thresholds: bool, interface: str, state_dir: Path) -> int:
    """Print the IPVS table exactly as `ipvsadm -Sn` does, for `ipvsadm -R` to restore."""
    node = open_ipvs(Config(interface=interface, state_dir=state_dir))
    click.echo(saved(grouped(node.ipvs.read(None)), complete=thresholds), nl=False)
    return 0
