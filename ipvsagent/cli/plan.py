"""Implements the command `ipvsagent plan`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

import click
import msgspec

from ipvsagent.backends.backend import Backend
from ipvsagent.backends.selection import empty_findings, empty_pipeline, open_backend
from ipvsagent.cli import FAILED, WOULD_CHANGE
from ipvsagent.cli.options import SettingsCommand, given, setting_options
from ipvsagent.cli.output import FORMATS, print_document
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingBook, FindingKind, Severity, input_failed
from ipvsagent.pipeline import Pipeline
from ipvsagent.rows import AddressRow, Op, SharedRow
from ipvsagent.rows.nat_chains import ChainsRow, commands
from ipvsagent.sources.source import source_of


class PlannedOp(msgspec.Struct, frozen=True):
    """Describes a write to the kernel that `run` would do."""

    verb: str
    command: str
    """The command that would do the same by hand."""
    service: str
    """The Service that it is for; "" if no Service asks for it now."""


class Plan(msgspec.Struct, frozen=True):
    """Collects all that `run` would change."""

    operations: tuple[PlannedOp, ...]
    packet_rules: tuple[str, ...]
    """How the packet rules of the node differ from those that `run` would write, one sentence each."""
    findings: tuple[Finding, ...]


@click.command(name="plan", cls=SettingsCommand)
@setting_options(planned=True)
@click.option(
    "--against",
    type=click.Choice(["kernel", "empty"]),
    default="kernel",
    show_default=True,
    help="Compare with this node's kernel, or with an empty one, which needs neither privileges nor IPVS.",
)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="text", show_default=True)
def command(against: str, output: str, **options: Any) -> int:
    """Print what `run` would change, and change nothing.

    Each line is a command that would do the same by hand. Packet rules are written all at once and are described in
    comments. The exit status is 2 if something would change, 0 if nothing would, and 1 if an input could not be read,
    whatever else would change.
    """
    settings = given(options)
    config = settings.config
    for warning in settings.warnings:
        click.echo(click.style(str(warning), fg="yellow"), err=True)
    changes, findings = source_of(config).load_once()
    ops: list[Op] = []
    book = FindingBook()
    rules: list[str] = []
    left: tuple[Finding, ...] = ()
    if against == "empty":
        pipeline = empty_pipeline(config, ops)
        book.replace("backend", empty_findings(config))
    else:
        backend = open_backend(config)
        pipeline = backend.dry_pipeline(ops)
        pipeline.set_node_addresses(backend.node_addresses())
        rules = _rule_differences(backend, book)
        left = tuple(backend.findings_on_others())
        book.replace("backend", backend.findings)
        book.replace("other backend", left)
    book.replace("source", findings)
    origins = pipeline.apply_changes(changes, 0.0)
    origins += pipeline.start(0.0).findings
    for origin, found in origins:
        book.replace(origin, found)
    planned = _planned(ops, pipeline, config.interface)
    status = FAILED if input_failed(findings) else WOULD_CHANGE if ops or rules or left else 0
    try:
        if output == "text":
            _print_text(planned, rules, book.current(), would_change=bool(ops or rules or left))
        else:
            print_document(Plan(planned, tuple(rules), tuple(book.current())), output)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe; the exit status is the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _rule_differences(backend: Backend, book: FindingBook) -> list[str]:
    try:
        rules = backend.packet_filter()
        found = rules.differences()
        book.replace("packet rules", rules.findings())
        return found
    except (KernelError, StartError) as error:
        book.replace("packet rules", [Finding(FindingKind.HOST, "packet rules", str(error), severity=Severity.ERROR)])
        return []


def _planned(ops: list[Op], pipeline: Pipeline, interface: str) -> tuple[PlannedOp, ...]:
    """Sort ops by Service, and within a Service in the order of execution."""
    desired = pipeline.desired
    on_address = {server_id.address: desired.get(server_id) for server_id in sorted(desired, reverse=True)}
    planned = []
    for op in ops:
        row, command = op.row, str(op)
        if isinstance(row, SharedRow):
            server = on_address.get(row.about) if row.about else None
            command += f" dev {interface}" if isinstance(row, AddressRow) else ""
        else:
            server = desired.get(row.server)
            command = "\n".join(commands(op.verb, row)) if isinstance(row, ChainsRow) else command
        planned.append(PlannedOp(op.verb.value, command, str(server.service) if server else ""))
    return tuple(sorted(planned, key=lambda p: p.service))


def _print_text(
    planned: tuple[PlannedOp, ...], rules: list[str], findings: list[Finding], *, would_change: bool
) -> None:
    service = None
    for op in planned:
        if op.service != service:
            service = op.service
            click.echo(f"# {service or 'no Service'}")
        click.echo(op.command)
    if rules:
        click.echo("# packet rules")
    for sentence in rules:
        click.echo(f"# {sentence}")
    for finding in findings:
        click.echo(click.style(str(finding), fg="yellow"), err=True)
    counts = Counter(op.verb for op in planned)
    if planned:
        words = ", ".join(f"{counts[verb]} to {verb}" for verb in ("add", "set", "delete") if counts[verb])
        lines = sum(op.command.count("\n") + 1 for op in planned)
        commands = f" in {lines} commands" if lines != len(planned) else ""
        click.echo(f"{len(planned)} changes{commands}: {words}", err=True)
    if rules:
        click.echo(f"packet rules: {len(rules)} differences", err=True)
    if input_failed(findings):
        click.echo("an input could not be read: what it contains is missing from this plan", err=True)
    elif not would_change:
        click.echo("nothing would change", err=True)
