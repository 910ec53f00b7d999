"""Prints documents to standard output, as JSON or YAML."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ipvsagent.printable import printable, to_json

FORMATS = ["text", "json", "yaml"]


def print_document(document: Any, output: str) -> None:
    """Print a document; `output` is json or yaml, and field names are the same in both."""
    if output == "json":
        click.echo(msgspec.json.format(to_json(document), indent=2))
        return
    import yaml  # takes 20 ms, which only this format pays

    click.echo(yaml.safe_dump(printable(msgspec.to_builtins(document)), sort_keys=False), nl=False)
