"""Splits the output of iptables-save into lines, tables, and the parts of a rule. Pure.

A quoted string escapes quotes with a backslash (xtables_save_string of libxtables); all other bytes stay as they are,
newlines included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_COMMENT = re.compile(r'(?:^| )-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)', re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_JUMP = re.compile(r"(?:^| )-([jg]) (\S+)")


class RuleParts(NamedTuple):
    """Holds the parts of a rule."""

    matches: str
    """The text before the target, without quoted strings."""
    target: str
    goto: bool
    """The target is entered by `-g`."""


def save_lines(text: str) -> Iterator[str]:
    """Yield the lines; a newline within quotes does not end one."""
    pending: list[str] = []
    is_open = False
    for line in text.removesuffix("\n").split("\n"):
        if '"' in line and _ESCAPED.sub("", line).count('"') % 2:
            is_open = not is_open
        pending.append(line)
        if not is_open:
            yield "\n".join(pending)
            pending.clear()
    yield from pending  # a quote that is never closed hides no lines


def save_tables(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each complete table's name, and its lines between the name and COMMIT."""
    name = ""
    lines: list[str] = []
    for line in save_lines(text):
        if line.startswith("*"):
            name, lines = line[1:], []
        elif line == "COMMIT" and name:
            yield name, lines
            name = ""
        else:
            lines.append(line)


def without_comment(rule: str) -> str:
    return _COMMENT.sub("", rule).lstrip() if "--comment" in rule else rule


def split_rule(rule: str) -> RuleParts:
    """Split a rule at its target, which is "" if it has none; the comment belongs to neither part."""
    bare = without_comment(rule)
    if '"' in bare:
        bare = _QUOTED.sub('""', bare)
    jump = _JUMP.search(bare)
    return RuleParts(bare[: jump.start()], jump[2], jump[1] == "g") if jump else RuleParts(bare, "", False)
