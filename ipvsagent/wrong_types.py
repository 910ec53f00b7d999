"""Translates msgspec's messages about wrong types for people who wrote YAML."""

from __future__ import annotations

import re

import msgspec

WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number with a fraction",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISMATCH = re.compile(r"Expected `(?P<wanted>[^`]*)`(?:, got `(?P<got>[^`]*)`)?")


def in_words(error: msgspec.ValidationError) -> tuple[str, str]:
    """Return (the field's path, such as `spec.ports[0].port`, and the reason as a sentence)."""
    found = _MESSAGE.fullmatch(str(error))
    assert found
    what, path = found["what"], (found["path"] or "").replace("[...]", "")
    mismatch = _MISMATCH.fullmatch(what)
    if mismatch:
        wanted = mismatch["wanted"].removesuffix(" | null")
        what = "must be " + WORDS.get(wanted, wanted)
        if mismatch["got"]:
            what += ", not " + WORDS.get(mismatch["got"], mismatch["got"])
    elif "out of range" in what:
        what = "is a number out of range"
    return path, what
