"""Makes valid Unicode text from file names that need not be valid.

Linux file names are bytes. Python represents bytes that are not UTF-8 as surrogates (PEP 383), which neither JSON nor a
terminal accepts.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_SURROGATES = re.compile("[\ud800-\udfff]")


def printable(value: Any) -> Any:
    """Return the same text, mapping or sequence, with U+FFFD in place of each byte that is not UTF-8."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    return value


def to_json(document: Any) -> bytes:
    """Encode anything that msgspec encodes, with `printable` text where it needs to be."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable(msgspec.to_builtins(document)))
