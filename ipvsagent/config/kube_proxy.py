"""Defines settings that are accepted but have another meaning here, or none: kube-proxy's, and those that ours had
once.

Fields and options are those of kube-proxy 1.36 (staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go,
cmd/kube-proxy/app/options.go), and some of older releases, because files and command lines outlive releases.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ipvsagent.config import kinds
from ipvsagent.config.kinds import Kind
from ipvsagent.config.setting import Document

EVERY_ADDRESS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Translated(Struct, frozen=True):
    """Describes a setting of kube-proxy's that does not exist here, but implies a value of `field`."""

    field: str
    path: str
    kind: Kind
    meaning: Callable[[Any], Any]
    """Returns the implied value; None = none. An explicit value of the field overrides it."""
    options: tuple[str, ...] = ()
    logging: bool = False
    """The option counts even if there is a file."""
    document: Document = Document.KUBE_PROXY


class WithoutEffect(Struct, frozen=True):
    """Describes a setting that is accepted and checked, but has no effect. A warning reports this, unless the value is
    empty or usual."""

    path: str
    kind: Kind
    why: str
    """The reason in the warning."""
    options: tuple[str, ...] = ()
    usual: tuple[object, ...] = ()
    """kube-proxy's default, which needs no warning."""
    document: Document = Document.KUBE_PROXY
    """The document that has the field `path`."""


def _gates(gates: dict[str, bool]) -> tuple[Any, ...] | None:
    return EVERY_ADDRESS if gates.get("AllowServiceExternalIPs") else None


def _verbosity(level: int) -> str | None:
    """Return the log level of a klog verbosity: 4 and more is for debugging (Kubernetes' logging conventions)."""
    return "debug" if level >= 4 else None


def _off(port: int) -> str | None:
    """Return no server for port 0; another port does not count, since an address has its own
    (addressFromDeprecatedFlags, cmd/kube-proxy/app/options.go)."""
    return "" if port == 0 else None


KNOWN_GATES = ("AllowServiceExternalIPs",)

TRANSLATED = (
    Translated("allowed_external", "featureGates", kinds.GATES, _gates, ("--feature-gates",)),
    Translated("log_level", "logging.verbosity", kinds.integer(0, 2**31), _verbosity, ("--v", "-v"), logging=True),
    Translated("healthz_address", "", kinds.integer(0, 65535), _off, ("--healthz-port",)),
    Translated("metrics_address", "", kinds.integer(0, 65535), _off, ("--metrics-port",)),
)

_EVENTS = "changes arrive as events, and each audit repairs what differs"
_NOT_HERE = "kube-proxy uses it on Windows only"
_CLIENT = "requests to the Kubernetes API are lists and watches, which need no limit; Events have limits of their own"
_LOG = "the log is text on standard error; --log-level sets its level"
_OLD = "kube-proxy no longer has this setting"
_PERIOD, _COUNT, _WORD, _YES = kinds.duration(), kinds.integer(0, 2**31), kinds.TEXT, kinds.FLAG
_ANYTHING = kinds.ANYTHING


def _ignored(why: str, path: str, kind: Kind, *options: str, usual: tuple[object, ...] = ()) -> WithoutEffect:
    return WithoutEffect(path, kind, why, options, usual)


WITHOUT_EFFECT = (
    _ignored(_CLIENT, "clientConnection.acceptContentTypes", _WORD),
    _ignored(
        _CLIENT,
        "clientConnection.contentType",
        _WORD,
        "--kube-api-content-type",
        usual=("application/vnd.kubernetes.protobuf", "application/json"),
    ),
    _ignored(_CLIENT, "clientConnection.qps", kinds.FRACTION, "--kube-api-qps", usual=(5.0,)),
    _ignored(_CLIENT, "clientConnection.burst", _COUNT, "--kube-api-burst", usual=(10,)),
    _ignored(_EVENTS, "configSyncPeriod", _PERIOD, "--config-sync-period", usual=(900.0,)),
    _ignored(_EVENTS, "ipvs.minSyncPeriod", _PERIOD, "--ipvs-min-sync-period"),
    _ignored(_EVENTS, "iptables.syncPeriod", _PERIOD, "--iptables-sync-period", usual=(30.0,)),
    _ignored(_EVENTS, "iptables.minSyncPeriod", _PERIOD, "--iptables-min-sync-period", usual=(1.0,)),
    _ignored("masqueraded packets get the address of the interface they leave by", "iptables.snatNodeInternalIP", _YES),
    *(
        _ignored("there is no nftables backend", f"nftables.{name}", kind, usual=usual)
        for name, kind, usual in (
            ("masqueradeAll", _YES, ()),
            ("masqueradeBit", kinds.integer(0, 31), (14,)),
            ("minSyncPeriod", _PERIOD, (1.0,)),
            ("syncPeriod", _PERIOD, (30.0,)),
        )
    ),
    _ignored("there is no profiler to serve", "enableProfiling", _YES, "--profiling"),
    _ignored("no metric is hidden", "showHiddenMetricsForVersion", _WORD, "--show-hidden-metrics-for-version"),
    _ignored(_LOG, "logging.format", _WORD, "--logging-format", usual=("text",)),
    _ignored(_LOG, "logging.flushFrequency", _ANYTHING, "--log-flush-frequency", usual=("5s", 5000000000)),
    _ignored(_LOG, "logging.vmodule", _ANYTHING, "--vmodule"),
    _ignored(_LOG, "logging.options", _ANYTHING),
    *(
        _ignored(_LOG, "", _ANYTHING, option)
        for option in (
            "--log-json-info-buffer-size",
            "--log-json-split-stream",
            "--log-text-info-buffer-size",
            "--log-text-split-stream",
            "--add-dir-header",
            "--alsologtostderr",
            "--log-backtrace-at",
            "--log-dir",
            "--log-file",
            "--log-file-max-size",
            "--logtostderr",
            "--one-output",
            "--skip-headers",
            "--skip-log-headers",
            "--stderrthreshold",
        )
    ),
    _ignored(_OLD, "portRange", _WORD, "--proxy-port-range"),
    _ignored(_OLD, "udpIdleTimeout", _PERIOD, usual=(0.25,)),
    _ignored(_OLD, "resourceContainer", _WORD, usual=("/kube-proxy",)),
    WithoutEffect(
        "localMarkMask",
        kinds.MASK,
        "clients on the node are translated to the cluster IP, and no packet mark selects a virtual server",
        ("--local-mark-mask",),
        document=Document.AGENT,
    ),
    _ignored(_NOT_HERE, "winkernel", _ANYTHING),
    _ignored(_NOT_HERE, "windowsRunAsService", _YES, "--windows-service"),
    *(
        _ignored(_NOT_HERE, "", _ANYTHING, option)
        for option in (
            "--enable-dsr",
            "--forward-healthcheck-vip",
            "--network-name",
            "--root-hnsendpoint-name",
            "--source-vip",
        )
    ),
)


def is_unset(value: object) -> bool:
    """Return whether a value is one that kubeadm writes for a setting that is not set: null, an empty text or list,
    zero, false, or a mapping that has only these."""
    if isinstance(value, dict):
        return all(is_unset(each) for each in value.values())
    return value in (None, "", 0, False, "0", "0s", [])
