"""A `Config` as the documents that load back to it. What is an option only is not in them."""

from __future__ import annotations

from typing import Any

import yaml

from ipvsagent.config.schema import SETTINGS, Document
from ipvsagent.config.settings import Config


def document_of(config: Config, document: Document) -> dict[str, Any]:
    """Every setting of the kind, with its value."""
    made: dict[str, Any] = {"apiVersion": document.api_version, "kind": document.kind}
    for setting in SETTINGS:
        if setting.document is document:
            *branches, leaf = setting.path.split(".")
            inner = made
            for branch in branches:
                inner = inner.setdefault(branch, {})
            inner[leaf] = setting.kind.write(getattr(config, setting.field))
    return made


def written(config: Config) -> str:
    """Both documents, as YAML."""
    return yaml.safe_dump_all((document_of(config, document) for document in Document), sort_keys=False)
