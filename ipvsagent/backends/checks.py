"""Defines what `check` reports: whether this node is fit for the agent, with one answer for each thing that can be
wrong."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from ipvsagent.kernel.arp import Answers
from ipvsagent.kernel.ipvs.timeouts import IdleTimeout
from ipvsagent.kernel.sysctls import Setting, is_writable, read_sysctl


class State(StrEnum):
    """Names the outcome of a check. Only FAILED keeps `run` from working; `run` itself does what is TO_DO."""

    OK = "ok"
    TO_DO = "to-do"
    WARNING = "warning"
    FAILED = "failed"


class Check(Struct, frozen=True, omit_defaults=True):
    """Holds one answer."""

    name: str
    state: State
    found: str
    remedy: str = ""
    """What an operator can do; "" where nothing is to be done, or `run` does it."""


class BackendChecks(Struct, frozen=True):
    """Holds what a backend checks, with the facts behind some of its answers."""

    checks: tuple[Check, ...]
    timeouts: tuple[IdleTimeout, ...] = ()
    arp: tuple[Answers, ...] = ()


def setting_check(setting: Setting) -> Check:
    """Check whether a kernel setting has the value that the agent needs, or could be given it."""
    value = read_sysctl(setting.name)
    if setting.holds(value):
        return Check(setting.name, State.OK, str(value))
    found = f"{'missing' if value is None else value}, wanted {setting.value}: {setting.why}"
    if value is not None and is_writable(setting.name):
        return Check(setting.name, State.TO_DO, found)
    remedy = f"Run on the host `sysctl -w {setting.name}={setting.value}`"
    return Check(setting.name, State.FAILED if setting.vital else State.WARNING, found, remedy)
