"""Does the work of `run --once`: runs the pipeline on one look at the source, without a loop."""

from __future__ import annotations

import logging
import time

from ipvsagent.agent import udp_flows
from ipvsagent.agent.log import record_and_log, totals_text
from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.findings import FindingBook, input_failed
from ipvsagent.sources.source import Source

log = logging.getLogger("ipvsagent")


def apply_once(config: Config, backend: Backend, source: Source) -> bool:
    """Make the kernel what the source asks for now. Return False if the kernel refused something or an input could not
    be read.

    Raises SourceError, KernelError and StartError.
    """
    began = time.monotonic()
    book = FindingBook()
    tables = backend.kernel_tables()
    tables.prepare()
    rules = backend.packet_filter()
    rules.install()
    rule_findings = (*rules.findings(), *backend.after_rules_installed())
    record_and_log(
        book, [("backend", backend.findings), ("limits", backend.unset_limits), ("packet rules", rule_findings)]
    )
    pipeline = backend.pipeline(tables, window=0)
    pipeline.set_node_addresses(backend.node_addresses())
    changes, findings = source.load_once()
    record_and_log(book, [("source", tuple(findings)), *pipeline.apply_changes(changes, began)])
    report = pipeline.begin(began)
    rules.apply_pending()
    record_and_log(book, [*report.findings, (udp_flows.ORIGIN, udp_flows.end_stale_flows(report.udp))])
    failed = bool(report.failures) or input_failed(findings)
    log.info(
        "%s: %s (%d writes, %.2f s)",
        "applied, with failures" if failed else "applied",
        totals_text(pipeline),
        report.written,
        time.monotonic() - began,
    )
    return not failed
