"""Documents on standard output, as JSON or YAML."""

from __future__ import annotations

from typing import Any

import click
import msgspec

FORMATS = ["text", "json", "yaml"]


def print_document(document: Any, output: str) -> None:
    """`output` is json or yaml; field names are the same in both."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
        return
    import yaml  # 20 ms that only this format pays

    click.echo(yaml.safe_dump(msgspec.to_builtins(document), sort_keys=False), nl=False)
