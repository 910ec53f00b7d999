"""Writes a `Config` as documents that load back to it, except for settings that are options only."""

from __future__ import annotations

from typing import Any

import yaml

from ipvsagent.config.schema import SETTINGS, Document
from ipvsagent.config.settings import Config


def document_of(config: Config, document: Document) -> dict[str, Any]:
    """Return the document of one kind, with the value of every setting."""
    content: dict[str, Any] = {"apiVersion": document.api_version, "kind": document.kind}
    for setting in SETTINGS:
        if setting.document is document:
            *branches, leaf = setting.path.split(".")
            inner = content
            for branch in branches:
                inner = inner.setdefault(branch, {})
            inner[leaf] = setting.kind.write(getattr(config, setting.field))
    return content


def written(config: Config) -> str:
    """Return both documents as YAML."""
    return yaml.safe_dump_all((document_of(config, document) for document in Document), sort_keys=False)
