"""Implements the command `ipvsagent check-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ipvsagent.cli import USAGE
from ipvsagent.cli.options import PATH, read_files
from ipvsagent.cli.output import FORMATS, print_document
from ipvsagent.config import Remark, resolve
from ipvsagent.config.schema import Document
from ipvsagent.config.write import document_of


class Checked(msgspec.Struct, frozen=True):
    """Holds the result of the check."""

    ok: bool
    problems: tuple[Remark, ...]
    warnings: tuple[Remark, ...]
    documents: tuple[dict[str, Any], ...]
    """The configuration that `run` would use, defaults included; empty if there are problems."""


@click.command(name="check-config")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="text", show_default=True)
def command(files: tuple[Path, ...], output: str) -> int:
    """Check configuration files and report every problem.

    FILES are those of `run --config`: a KubeProxyConfiguration, an IPVSAgentConfiguration, or both; - is standard
    input. A ConfigMap that contains such a file works, too. An error is something that `run` refuses, and makes the
    exit status 64. A warning is a setting that has no effect, or most likely not the effect that you expect.

    \b
    kubectl -n kube-system get configmap kube-proxy -o yaml | ipvsagent check-config -
    """
    resolved = resolve({}, read_files(files))
    if output == "text":
        for remark in resolved.problems:
            click.echo(f"error: {remark}")
        for remark in resolved.warnings:
            click.echo(f"warning: {remark}")
        click.echo(_count(len(resolved.problems), len(resolved.warnings)), err=True)
    else:
        documents = [] if resolved.config is None else [document_of(resolved.config, each) for each in Document]
        ok = resolved.config is not None
        print_document(Checked(ok, resolved.problems, resolved.warnings, tuple(documents)), output)
    return USAGE if resolved.problems else 0


def _count(problems: int, warnings: int) -> str:
    counts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((problems, "error"), (warnings, "warning")) if n]
    if problems:
        return f"{', '.join(counts)}: `run` would refuse this"
    return f"{', '.join(counts)}: `run` would accept this" if counts else "ok"
