"""Names the ways to change a row."""

from __future__ import annotations

from enum import StrEnum


class Verb(StrEnum):
    ADD = "add"
    SET = "set"
    DELETE = "delete"
