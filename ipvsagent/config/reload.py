"""Decides which settings of a new configuration a running agent can change, and which need a restart."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ipvsagent.config.remarks import Remark
from ipvsagent.config.schema import SETTINGS
from ipvsagent.config.settings import Config
from ipvsagent.findings import Finding, FindingKind, Severity


def reloaded(running: Config, wanted: Config, origins: Mapping[str, Remark]) -> tuple[Config, tuple[Finding, ...]]:
    """Return (the configuration to continue with, a finding for each setting that needs a restart).

    origins: where the values of `wanted` were written.
    """
    values = {}
    waiting = []
    for setting in SETTINGS:
        old, new = getattr(running, setting.field), getattr(wanted, setting.field)
        if old == new:
            continue
        if setting.live:
            values[setting.field] = new
            continue
        at = origins.get(setting.field)
        if at is None:
            at = Remark("", setting.path or setting.options[0], setting.document.kind if setting.document else "")
        write = setting.kind.write
        reason = f"is {write(old)!r} and becomes {write(new)!r} when the agent is restarted"
        waiting.append(finding(msgspec.structs.replace(at, reason=reason)))
    return msgspec.structs.replace(running, **values), tuple(waiting)


def finding(remark: Remark, severity: Severity = Severity.WARNING) -> Finding:
    """Return a remark as a finding, for status, log and metrics."""
    subject, field = (remark.kind, remark.path) if remark.kind else (remark.path or "configuration", "")
    return Finding(FindingKind.CONFIGURATION, subject, remark.reason, field, remark.file, severity)
