"""Implements the command `ipvsagent save`."""

from __future__ import annotations

from pathlib import Path

import click

from ipvsagent.backends.selection import open_ipvs_table
from ipvsagent.cli.options import config_files, found_by, interface, state_dir
from ipvsagent.status.ipvsadm_order import grouped
from ipvsagent.status.ipvsadm_rules import saved


@click.command(name="save")
@click.option(
    "--thresholds",
    is_flag=True,
    help="Add what `ipvsadm -Sn` leaves out: thresholds, and marks and scheduler flags that it prints wrongly.",
)
@interface
@state_dir
@config_files
def command(thresholds: bool, files: tuple[Path, ...], interface: str | None, state_dir: Path | None) -> int:
    """Print the IPVS table exactly as `ipvsadm -Sn` does, for `ipvsadm -R` to restore."""
    table = open_ipvs_table(found_by(files, interface, state_dir))
    click.echo(saved(grouped(table.read(None)), complete=thresholds), nl=False)
    return 0
