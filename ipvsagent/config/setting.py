"""Defines a setting: its names in `Config`, in a document and on the command line.

There are two documents. kube-proxy's own (KubeProxyConfiguration) has the settings that kube-proxy has, under the same
names; ours (IPVSAgentConfiguration) has the rest. A setting without a document is an option only.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ipvsagent.config.kinds import Kind
from ipvsagent.config.settings import Config


class Document(Enum):
    """Names a kind of document, as `apiVersion` and `kind` name it."""

    KUBE_PROXY = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
    AGENT = ("ipvsagent.io/v1alpha1", "IPVSAgentConfiguration")

    @property
    def api_version(self) -> str:
        return self.value[0]

    @property
    def kind(self) -> str:
        return self.value[1]


class Setting(Struct, frozen=True, kw_only=True):
    """Describes one line of the table of settings."""

    field: str
    """The field of `Config`."""
    kind: Kind
    options: tuple[str, ...] = ()
    """The option's names; help shows the first."""
    help: str = ""
    section: str = ""
    """One of SECTIONS."""
    document: Document | None = None
    path: str = ""
    """The path inside the document, `ipvs.syncPeriod`."""
    optional: bool = False
    """null and zero differ in a document; in other fields of kube-proxy's, "", 0 and 0s mean "not set"."""
    planned: bool = False
    """It changes what `plan` prints, so that `plan` has the option, too."""
    pending: bool = False
    """Nothing uses it yet: it is accepted and hidden, and a warning reports that it has no effect."""
    live: bool = False
    """A running agent applies a new value; others need a restart."""

    @property
    def default(self) -> Any:
        return getattr(_DEFAULTS, self.field)


_DEFAULTS = Config()
READ, SERVED, RULES = "What is read", "What is served", "Packet rules"
HOST, SERVERS, PROCESS = "The host", "Servers", "The process"
SECTIONS = (READ, SERVED, RULES, HOST, SERVERS, PROCESS)
"""The sections of `--help`, in order."""


def of_kube_proxy(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    """Return a setting of kube-proxy's document."""
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.KUBE_PROXY, **more)


def of_agent(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    """Return a setting of our own document."""
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.AGENT, **more)
