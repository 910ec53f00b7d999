"""Makes Events of findings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.printable import printable

CONTROLLER = "ipvsagent.io/ipvsagent"
NOTE_LIMIT = 1024
"""The most bytes of a note (NoteLengthLimit, pkg/apis/core/validation/events.go)."""
_API_VERSIONS = {"Service": "v1", "Node": "v1", "EndpointSlice": "discovery.k8s.io/v1"}
_NAME = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_SUBJECT = re.compile(rf"(?:(Service|EndpointSlice) ({_NAME})/|(Node) )({_NAME})", re.ASCII)
_SAME_ON_ALL_NODES = {
    FindingKind.INVALID_OBJECT,
    FindingKind.INVALID_ANNOTATION,
    FindingKind.SHADOWED_BY_SERVICE,
    FindingKind.AFFINITY_FLOOR,
    FindingKind.ONE_WAY,
}
"""Kinds whose findings depend on objects alone."""
_NOT_REPORTED = {FindingKind.REMOVAL_HELD, FindingKind.API_UNREACHABLE}
"""Findings of the first kind are about other objects than they name; those of the second are resolved by the time that
an Event can be written."""
_REASONS = {FindingKind.HOST: "NodeProblem", FindingKind.CONFIGURATION: "InvalidConfiguration"}
_HEALTH_CHECK = "spec.healthCheckNodePort"


class Regarding(Struct, frozen=True):
    """Names the object of the API that an Event is about."""

    kind: str
    namespace: str
    name: str


class Topic(Struct, frozen=True):
    """Identifies what an Event is about; all findings of one topic make one Event."""

    regarding: Regarding
    reason: str
    about: str = ""
    """Which part of the node it is about; "" for an object other than our Node."""
    shared: bool = True
    """Other nodes report the same topic, or may do so."""
    fixed: bool = False
    """Other nodes report it in the same words."""


class Event(Struct, frozen=True):
    """Describes an Event as it is to be written."""

    topic: Topic
    name: str
    """The name of the Event object, the same on all nodes that share it."""
    note: str
    warning: bool = True


def topic_of(finding: Finding, node: str) -> Topic | None:
    """Return the topic of a finding; None if it becomes no Event.

    node: the name of our Node, whose Events report what affects all Services here.
    """
    if finding.kind in _NOT_REPORTED or finding.file:
        return None
    reason = _REASONS.get(finding.kind) or finding.kind.value.title().replace("-", "")
    if finding.field == _HEALTH_CHECK and finding.kind is FindingKind.HOST:
        reason = "FailedToStartServiceHealthcheck"  # kube-proxy's reason
    match = _SUBJECT.fullmatch(finding.subject)
    if match:
        kind, namespace, name = match[1] or match[3], match[2] or "", match[4]
        if kind != "Node" or name != node:
            return Topic(Regarding(kind, namespace, name), reason, fixed=finding.kind in _SAME_ON_ALL_NODES)
    elif finding.kind is not FindingKind.FALLBACK and finding.severity is not Severity.ERROR:
        return None
    return Topic(Regarding("Node", "", node), reason, finding.subject, shared=False)


def event_of(topic: Topic, findings: Iterable[Finding], node: str, start: str) -> Event:
    """Make the Event of a topic from all of its findings.

    start: differs with each start of an agent, so that each start reports the problems of its node again.
    """
    first, *others = sorted(findings)
    note = f"{first.field}: {first.reason}" if first.field else first.reason
    if topic.about and topic.about != str(f"Node {node}"):
        note = f"{topic.about}: {note}"
    elif not topic.fixed and topic.shared:
        note = f"on node {node}: {note}"
    if others:
        note += f" (and {len(others)} more like it: see `ipvsagent status` on the node)"
    note = _cut(printable(note))
    identity = (topic.reason, note if topic.fixed or not topic.shared else "", "" if topic.shared else start)
    return Event(topic, _name(topic.regarding, identity), note)


def start_of(node: str, text: str, start: str) -> Event:
    """Make the Event of a start, which kube-proxy writes, too. text: what starts."""
    topic = Topic(Regarding("Node", "", node), "Starting", shared=False)
    return Event(topic, _name(topic.regarding, ("Starting", start)), text, warning=False)


def document_of(event: Event, uid: str, node: str, when: str) -> dict[str, Any]:
    """Return the object to create.

    uid: that of the object that the Event is about; "" for a Node. when: `2030-01-31T12:00:00.000000Z`.
    """
    about = event.topic.regarding
    regarding = {"apiVersion": _API_VERSIONS[about.kind], "kind": about.kind, "name": about.name}
    if about.namespace:
        regarding["namespace"] = about.namespace
    # The uid of a Node is its name in Events of kubelet and kube-proxy, and kubectl describe searches for that.
    regarding["uid"] = uid or about.name
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event.name, "namespace": namespace_of(event)},
        "eventTime": when,
        "type": "Warning" if event.warning else "Normal",
        "reason": event.topic.reason,
        "action": "StartIPVSAgent" if not event.warning else f"Program{about.kind}",
        "note": event.note,
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": node[:128],
    }


def namespace_of(event: Event) -> str:
    return event.topic.regarding.namespace or "default"


def _name(regarding: Regarding, identity: tuple[str, ...]) -> str:
    digest = hashlib.sha256("\0".join((regarding.kind, *identity)).encode()).hexdigest()[:16]
    return f"{regarding.name[:230].rstrip('-.')}.{digest}"


def _cut(text: str) -> str:
    encoded = text.encode()
    return text if len(encoded) <= NOTE_LIMIT else encoded[: NOTE_LIMIT - 3].decode(errors="ignore") + "..."
