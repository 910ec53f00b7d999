"""A setting: what it is called in `Config`, in a document, and on the command line.

Two documents. kube-proxy's own (KubeProxyConfiguration) has the settings that kube-proxy knows, under its names;
ours (IPVSAgentConfiguration) has the rest. A setting with no document is an option only.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ipvsagent.config.kinds import Kind
from ipvsagent.config.settings import Config


class Document(Enum):
    """A kind of document, as `apiVersion` and `kind` name it."""

    KUBE_PROXY = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
    AGENT = ("ipvsagent.io/v1alpha1", "IPVSAgentConfiguration")

    @property
    def api_version(self) -> str:
        return self.value[0]

    @property
    def kind(self) -> str:
        return self.value[1]


class Setting(Struct, frozen=True, kw_only=True):
    """field: of Config. path: inside the document, `ipvs.syncPeriod`. options: the first is the one that is shown.

    optional: a document's null and zero differ; elsewhere kube-proxy takes "", 0 and 0s for "not set".
    planned: it changes what `plan` prints, so that `plan` shows it, too.
    pending: nothing uses it yet; it is accepted, hidden, and said to be without effect. Who makes it work removes this.
    live: a running agent takes a new value up; others need a restart.
    """

    field: str
    kind: Kind
    options: tuple[str, ...] = ()
    help: str = ""
    section: str = ""
    document: Document | None = None
    path: str = ""
    optional: bool = False
    planned: bool = False
    pending: bool = False
    live: bool = False

    @property
    def default(self) -> Any:
        return getattr(_DEFAULTS, self.field)


_DEFAULTS = Config()
READ, SERVED, RULES = "What is read", "What is served", "Packet rules"
HOST, SERVERS, PROCESS = "The host", "Servers", "The process"
SECTIONS = (READ, SERVED, RULES, HOST, SERVERS, PROCESS)
"""Of `--help`, in its order."""


def of_kube_proxy(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.KUBE_PROXY, **more)


def of_agent(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.AGENT, **more)
