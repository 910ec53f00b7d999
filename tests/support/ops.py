"""Rows as ops."""

from __future__ import annotations

from ipvsagent.rows import Op, Row, Verb


def add(*rows: Row) -> list[Op]:
    return [Op(Verb.ADD, row) for row in rows]


def put(*rows: Row) -> list[Op]:
    return [Op(Verb.SET, row) for row in rows]


def delete(*rows: Row) -> list[Op]:
    return [Op(Verb.DELETE, row) for row in rows]
