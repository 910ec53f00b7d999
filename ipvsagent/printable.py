"""Text that any program can read, of names that need not be.

Linux file names are bytes: those that are no UTF-8 come as surrogates (PEP 383), which no JSON and no terminal takes.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_SURROGATES = re.compile("[\ud800-\udfff]")


def printable(value: Any) -> Any:
    """The same text, mapping or sequence of such, with U+FFFD in place of each byte that is no UTF-8."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    return value


def to_json(document: Any) -> bytes:
    """document: anything that msgspec encodes."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable(msgspec.to_builtins(document)))
