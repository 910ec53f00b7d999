"""`run --once`: the pipeline with one look at the source and no loop behind it."""

from __future__ import annotations

import logging
import time

from ipvsagent import udp_flows
from ipvsagent.announce import learn, totals_text
from ipvsagent.config import Config
from ipvsagent.findings import FindingBook
from ipvsagent.node import Node, pipeline_for
from ipvsagent.packet_filter import PacketFilter
from ipvsagent.sources.source import Source

log = logging.getLogger("ipvsagent")


def apply_once(config: Config, node: Node, source: Source) -> bool:
    """Make the kernel as the source wants it now; False if the kernel refused something.

    Raises SourceError, KernelError and StartError.
    """
    began = time.monotonic()
    book = FindingBook()
    backend = node.backend()
    backend.prepare()
    rules = PacketFilter(config)
    rules.install()
    learn(book, [("limits", node.unset_limits), ("packet rules", tuple(rules.findings()))])
    pipeline = pipeline_for(config, backend, window=0, scheduler_works=node.scheduler_works)
    pipeline.node_addresses(node.addresses.node_addresses())
    changes, findings = source.load_once()
    learn(book, [("source", tuple(findings)), *pipeline.take(changes, began)])
    report = pipeline.begin(began)
    learn(book, [*report.findings, (udp_flows.ORIGIN, udp_flows.end_stale_flows(report.udp))])
    log.info(
        "%s: %s (%d writes, %.2f s)",
        "applied, with failures" if report.failures else "applied",
        totals_text(pipeline),
        report.written,
        time.monotonic() - began,
    )
    return not report.failures
