"""Implements the command `ipvsagent cleanup`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from ipvsagent.backends.assembly import lock_path
from ipvsagent.backends.removal import Removal, RemovalPlan, open_shared_state
from ipvsagent.backends.selection import open_all
from ipvsagent.cli import FAILED
from ipvsagent.cli.options import config_files, found_by, interface, state_dir
from ipvsagent.errors import StartError
from ipvsagent.kernel import host
from ipvsagent.kernel.kube_proxy.cleanup import kept, leftovers, remove
from ipvsagent.rows import AddressRow
from ipvsagent.rows.nat_chains import ChainsRow


@click.command(name="cleanup")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
@click.option(
    "--kube-proxy",
    is_flag=True,
    help="Remove the packet rules and sets that kube-proxy left, in any of its modes, and nothing else; while an agent "
    "serves here, too.",
)
@interface
@state_dir
@config_files
def command(
    yes: bool, dry_run: bool, kube_proxy: bool, files: tuple[Path, ...], interface: str | None, state_dir: Path | None
) -> int:
    """Remove everything from this node that ipvsagent created.

    That is our interface with its addresses, our virtual servers, packet rules and sets, of every backend. What other
    programs created stays.
    Services stop working on this node. Sysctls are not restored, except arp_ignore and arp_announce of interfaces and
    route_localnet, if they were raised, and the node ports in ip_local_reserved_ports.
    """
    config = found_by(files, interface, state_dir)
    host.require_privilege()
    if kube_proxy:
        return _remove_kube_proxy(yes=yes, dry_run=dry_run)
    lock = host.AgentLock(lock_path(config))
    if lock.is_held() if dry_run else not lock.try_acquire():
        raise StartError(
            f"an agent (pid {lock.holder() or 'unknown'}) is running here and would put everything back",
            "Stop it first",
        )
    removal = Removal(open_all(config), open_shared_state(config))
    planned = removal.plan()
    counts = Counter(op.row.noun for op in planned.ops)
    counts.update({"chain or jump": len(planned.packet_rules), "set": len(planned.sets)})
    what = _enumerate(counts, f"the interface {config.interface}" if planned.has_interface else "")
    if dry_run:
        _print_plan(planned, config.interface)
        click.echo(f"would remove {what}" if what else "nothing to remove", err=True)
        return 0
    if what and not _confirmed(f"Remove {what} from this node?", yes):
        return FAILED
    if failures := removal.remove():
        for failure in failures:
            click.echo(f"ipvsagent: `{failure.op}`: {failure.error}", err=True)
        return FAILED
    click.echo(f"removed {what}" if what else "nothing to remove", err=True)
    return 0


def _print_plan(planned: RemovalPlan, interface: str) -> None:
    for op in planned.ops:
        if not isinstance(op.row, ChainsRow):  # their chains are among the packet rules
            click.echo(str(op) + (f" dev {interface}" if isinstance(op.row, AddressRow) else ""))
    for line in (*planned.packet_rules, *(f"ipset destroy {name}" for name in planned.sets)):
        click.echo(line)
    if planned.has_interface:
        click.echo(f"ip link delete {interface}")


def _enumerate(counts: Counter[str], last: str) -> str:
    """Return a list such as `3 virtual servers, 2 sets and the interface kube-ipvs0`; "" for nothing."""
    plurals = {"address": "addresses", "chain or jump": "chains and jumps"}
    words = [
        f"{count} {word if count == 1 else plurals.get(word, f'{word}s')}" for word, count in counts.items() if count
    ]
    if last:
        words.append(last)
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _confirmed(question: str, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: to remove it all without being asked, add --yes")
    if click.confirm(question):
        return True
    click.echo("nothing removed", err=True)
    return False


def _remove_kube_proxy(*, yes: bool, dry_run: bool) -> int:
    if pid := host.kube_proxy_here():
        raise StartError(f"kube-proxy (pid {pid}) is running here and would put everything back", "Stop it first")
    found = leftovers()
    for chain in kept():
        click.echo(f"ipvsagent: rules of other programs lead to {chain}: left alone", err=True)
    if dry_run:
        for line in found:
            click.echo(line)
        if not found:
            click.echo("nothing to remove", err=True)
        return 0
    if found and not _confirmed(f"Remove {len(found)} rules, chains and sets of kube-proxy from this node?", yes):
        return FAILED
    click.echo(f"removed {remove()} rules, chains and sets of kube-proxy", err=True)
    return 0
