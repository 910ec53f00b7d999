"""The command `ipvsagent cleanup`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from ipvsagent.backends.assembly import ledger_path, lock_path, pipeline_for
from ipvsagent.backends.iptables import IptablesBackend, iptables_pipeline
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.cli import FAILED
from ipvsagent.cli.options import config_files, found_by, interface, state_dir
from ipvsagent.errors import StartError
from ipvsagent.kernel import host
from ipvsagent.kernel.kube_proxy.cleanup import kept, leftovers, remove
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.kernel.sysctls import LOCALHOST
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.rows import AddressRow, Op, RouteRow, TranslationRow, Verb
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
    """Remove everything that ipvsagent made from this node.

    That is our interface with its addresses, the virtual servers that are ours, our packet rules and sets, of both
    backends; what other programs made stays.
    Services stop working on this node. Sysctls stay as they are, but for arp_ignore and arp_announce of interfaces and
    route_localnet, where they were raised, and the node ports in ip_local_reserved_ports.
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
    node = None if host.ip_vs_presence() is host.IpvsPresence.ABSENT else IpvsBackend.open(config)
    chains = IptablesBackend.open(config)
    planned: list[Op] = []
    if node:
        pipeline_for(config, node.recorder(planned), window=0).start(0.0)
        planned = [op for op in planned if not isinstance(op.row, TranslationRow)]  # they go with their chain
    routes = RouteTable(chains.addresses)
    if not node:
        planned += [Op(Verb.DELETE, seen.row) for seen in routes.read(None)]
    iptables_pipeline(config, chains.chain_recorder(planned), window=0).start(0.0)
    rules = IptablesPacketFilter(config)
    packet_rules = rules.removals()
    sets = sorted(chains.sets.state())
    bound = chains.addresses.has_interface()
    counts = Counter(op.row.noun for op in planned)
    counts.update({"chain or jump": len(packet_rules), "set": len(sets)})
    what = _told(counts, f"the interface {config.interface}" if bound else "")
    if dry_run:
        for op in planned:
            if not isinstance(op.row, ChainsRow):  # their chains are among the packet rules
                click.echo(str(op) + (f" dev {config.interface}" if isinstance(op.row, AddressRow) else ""))
        for line in (*packet_rules, *(f"ipset destroy {name}" for name in sets)):
            click.echo(line)
        if bound:
            click.echo(f"ip link delete {config.interface}")
        click.echo(f"would remove {what}" if what else "nothing to remove", err=True)
        return 0
    if what and not _confirmed(f"Remove {what} from this node?", yes):
        return FAILED
    if node:
        report = pipeline_for(config, node.remover(), window=0).start(0.0)
        for failure in report.failures:
            click.echo(f"ipvsagent: `{failure.op}`: {failure.error}", err=True)
        if report.failures:
            return FAILED
    _close_localhost(chains)
    rules.remove()
    chains.sets.remove()
    chains.addresses.remove_interface()
    if not node:
        routes.write([op for op in planned if isinstance(op.row, RouteRow)])
    chains.saved.raised.restore()
    chains.saved.reserved.restore()
    for path in (chains.socket_path, ledger_path(config)):
        path.unlink(missing_ok=True)
    click.echo(f"removed {what}" if what else "nothing to remove", err=True)
    return 0


def _told(counts: Counter[str], last: str) -> str:
    """`3 virtual servers, 2 sets and the interface kube-ipvs0`; "" for nothing."""
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


def _close_localhost(chains: IptablesBackend) -> None:
    """While the rule is there that keeps other hosts from 127.0.0.0/8. Raises StartError."""
    try:
        chains.saved.localhost.restore()
    except OSError as error:
        raise StartError(
            f"{LOCALHOST.name} cannot be put back ({error.strerror}), and without our rules it opens this node's "
            "127.0.0.0/8 to other hosts",
            f"Run on the host `sysctl -w {LOCALHOST.name}=0`, then this again",
        ) from error


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
