"""Implements the command `ipvsagent check`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ipvsagent.agent.preflight import NodeChecks, check_node
from ipvsagent.backends.checks import Check, State
from ipvsagent.cli import FAILED
from ipvsagent.cli.options import SettingsCommand, given, setting_options
from ipvsagent.cli.output import FORMATS, print_document
from ipvsagent.status.timeouts import timeout_lines

_COLOUR = {State.OK: "green", State.TO_DO: "cyan", State.WARNING: "yellow", State.FAILED: "red"}


@click.command(name="check", cls=SettingsCommand)
@setting_options(planned=True)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="text", show_default=True)
def command(output: str, **options: Any) -> int:
    """Check whether this node is fit for ipvsagent, and which interfaces answer ARP for Service addresses.

    Checks privileges, kernel, settings, iptables, other programs of the node's network, timeouts and interfaces, and
    changes nothing.
    `to-do` marks what `run` would do by itself. Exit status 1 if something would keep it from working.
    """
    checked = check_node(given(options).config)
    if output == "text":
        _print_text(checked)
    else:
        print_document(checked, output)
    return 0 if checked.fit else FAILED


def _print_text(checked: NodeChecks) -> None:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    _print_checks(checked.checks, colour)
    if checked.neighbours:
        click.echo()
        _print_checks(checked.neighbours, colour)
    if checked.timeouts:
        click.echo()
        for text, _ in timeout_lines(checked.timeouts):
            click.echo(text)
    click.echo(_summary((*checked.checks, *checked.neighbours)), err=True)


def _print_checks(checks: tuple[Check, ...], colour: bool) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        state = f"{check.state:<8}"
        shown = click.style(state, fg=_COLOUR[check.state]) if colour else state
        click.echo(f"{shown} {check.name:<{width}}  {check.found}")
        if check.remedy:
            click.echo(f"{'':<8} {'':<{width}}  {check.remedy}")


def _summary(checks: tuple[Check, ...]) -> str:
    counts = {
        state: sum(check.state is state for check in checks) for state in (State.FAILED, State.WARNING, State.TO_DO)
    }
    words = [f"{count} {state}" for state, count in counts.items() if count]
    return ", ".join(words) or "this node is fit"
