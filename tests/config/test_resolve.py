"""Every field and option: what it becomes, what is refused, what is said to have no effect, and which wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ipvsagent.config import BackendChoice, Config, Resolved, parse_network, resolve
from ipvsagent.config.kube_proxy import EVERY_ADDRESS, TRANSLATED, WITHOUT_EFFECT
from ipvsagent.config.schema import SETTINGS, Document
from tests.support.setting_examples import AGENT, FIELDS, KUBE_PROXY


def document(kind: Document, path: str, value: object) -> bytes:
    fields: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.kind}
    inner = fields
    *branches, leaf = path.split(".")
    for branch in branches:
        inner = inner.setdefault(branch, {})
    inner[leaf] = value
    return yaml.safe_dump(fields).encode()


def of_field(kind: Document, path: str, value: object) -> Resolved:
    return resolve({}, {"c.yaml": document(kind, path, value)})


def said(resolved: Resolved) -> list[str]:
    quiet = ("has no effect yet", "mode: is empty")
    return [str(each) for each in resolved.warnings if not any(word in str(each) for word in quiet)]


NEEDS_MORE = {"route_mode"}


def test_every_setting_is_in_the_table() -> None:
    fields = {setting.field for setting in SETTINGS}
    assert FIELDS.keys() | NEEDS_MORE == fields
    assert fields | {"window"} == set(Config.__struct_fields__), "a setting that nobody can make"


def test_no_option_and_no_path_twice() -> None:
    entries = (*SETTINGS, *TRANSLATED, *WITHOUT_EFFECT)
    options = [name for entry in entries for name in entry.options]
    assert len(options) == len(set(options))
    paths = [entry.path for entry in entries if entry.path]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("field", FIELDS)
def test_field_of_a_document(field: str) -> None:
    kind, path, value, _, _, wanted = FIELDS[field]
    if kind is None:
        return
    resolved = of_field(kind, path, value)
    assert not resolved.problems and not said(resolved)
    assert getattr(resolved.required(), field) == wanted
    assert str(resolved.origins[field]) == f"c.yaml: {kind.kind} {path}"


@pytest.mark.parametrize("field", FIELDS)
def test_option(field: str) -> None:
    _, _, _, option, text, wanted = FIELDS[field]
    resolved = resolve({option: text})
    assert not resolved.problems and not said(resolved)
    if field == "sources":
        wanted = (Path("/a"),)
    assert getattr(resolved.required(), field) == wanted
    assert resolved.origins[field].path == option


@pytest.mark.parametrize("field", FIELDS)
def test_null_is_not_set(field: str) -> None:
    kind, path, *_ = FIELDS[field]
    if kind:
        assert of_field(kind, path, None).required() == Config()


def test_route_mode() -> None:
    text = document(AGENT, "serviceCIDRs", ["10.96.0.0/12"]) + b"routeMode: true\n"
    assert resolve({}, {"c": text}).required().route_mode
    assert resolve({"--route-mode": "true", "--service-cidrs": "10.96.0.0/12"}).required().route_mode
    assert [str(p) for p in resolve({"--route-mode": "true"}).problems] == ["--route-mode: needs --service-cidrs"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ipvs.syncPeriod", "0s"),
        ("ipvs.syncPeriod", "0h0m0s"),
        ("ipvs.scheduler", ""),
        ("bindAddress", ""),
        ("healthzBindAddress", ""),
        ("metricsBindAddress", ""),
        ("detectLocalMode", ""),
        ("clusterCIDR", ""),
        ("hostnameOverride", ""),
        ("mode", ""),
    ],
)
def test_zero_is_not_set_where_kube_proxy_cannot_tell(path: str, value: object) -> None:
    """SetDefaults_KubeProxyConfiguration."""
    assert of_field(KUBE_PROXY, path, value).required() == Config()


@pytest.mark.parametrize(
    ("kind", "path", "value", "reason"),
    [
        (KUBE_PROXY, "ipvs.syncPeriod", "-1s", "-1s is less than 0"),
        (KUBE_PROXY, "ipvs.syncPeriod", 30, "must be text, not a whole number"),
        (KUBE_PROXY, "ipvs.tcpTimeout", "soon", "'soon' is not a duration; write for example 30s, 15m or 1h30m"),
        (KUBE_PROXY, "ipvs", "rr", "must be a mapping"),
        (KUBE_PROXY, "ipvs.excludeCIDRs", ["10.0.0.0/99"], "'10.0.0.0/99' is not a CIDR"),
        (KUBE_PROXY, "ipvs.excludeCIDRs", "10.0.0.0/8", "must be a list, not text"),
        (KUBE_PROXY, "ipvs.strictARP", "yes", "must be true or false, not text"),
        (KUBE_PROXY, "ipvs.minSyncPeriod", "x", "'x' is not a duration"),
        (KUBE_PROXY, "mode", "userspace", "'userspace' is not one of auto, ipvs, iptables, nftables"),
        (KUBE_PROXY, "iptables.masqueradeBit", 32, "32 is not in the range 0 to 31"),
        (KUBE_PROXY, "nodePortAddresses", ["primary", "10.0.0.0/8"], '"primary" cannot be combined with other values'),
        (KUBE_PROXY, "nodePortAddresses", ["secondary"], "'secondary' is not a CIDR"),
        (KUBE_PROXY, "bindAddress", "eth0", "'eth0' is not an IP address"),
        (KUBE_PROXY, "healthzBindAddress", "localhost:80", "'localhost:80' is not an IP address and a port"),
        (KUBE_PROXY, "metricsBindAddress", "0.0.0.0:99999", "has no port from 1 to 65535"),
        (KUBE_PROXY, "clusterCIDR", "10.0.0.0/8,11.0.0.0/8", "must be one CIDR, or one of each family"),
        (KUBE_PROXY, "detectLocalMode", "Magic", "'Magic' is not one of ClusterCIDR, NodeCIDR"),
        (KUBE_PROXY, "detectLocalMode", "BridgeInterface", "BridgeInterface needs detectLocal.bridgeInterface"),
        (KUBE_PROXY, "conntrack.min", -1, "-1 is not in the range 0 to"),
        (KUBE_PROXY, "conntrack.maxPerCore", "many", "must be a whole number, not text"),
        (KUBE_PROXY, "oomScoreAdj", 1001, "1001 is not in the range -1000 to 1000"),
        (KUBE_PROXY, "featureGates", {"X": "on"}, "must be true or false, not text"),
        (KUBE_PROXY, "clientConnection.qps", "fast", "must be a number with a fraction, not text"),
        (KUBE_PROXY, "logging.verbosity", -1, "-1 is not in the range"),
        (AGENT, "drainTimeout", "", "'' is not a duration"),
        (AGENT, "interface", "a/b", "'a/b' is not the name of an interface"),
        (AGENT, "interface", "", "'' is not the name of an interface"),
        (AGENT, "drainTimeOut", "1s", "is not a field of IPVSAgentConfiguration; did you mean drainTimeout?"),
        (AGENT, "scheduler", "rr", "is not a field of IPVSAgentConfiguration"),
        (AGENT, "localMarkMask", -1, "-1 is not a 32-bit mask"),
        (AGENT, "serviceNodePortRange", "", "'' is not a range of ports; write for example 30000-32767"),
        (AGENT, "serviceNodePortRange", "40000-30000", "'40000-30000' ends before it begins"),
        (AGENT, "serviceNodePortRange", 30000, "must be text, not a whole number"),
        (AGENT, "logLevel", "loud", "'loud' is not one of debug, info, warning, error"),
        (AGENT, "sources", "a.yaml", "must be a list, not text"),
    ],
)
def test_wrong_values_are_refused(kind: Document, path: str, value: object, reason: str) -> None:
    resolved = of_field(kind, path, value)
    assert resolved.config is None
    (problem,) = resolved.problems
    assert (problem.file, problem.kind) == ("c.yaml", kind.kind)
    assert problem.path == path and reason in problem.reason


def test_all_problems_at_once_with_where_they_are() -> None:
    text = b"""
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: userspace
ipvs: {tcpTimeout: soon, excludeCIDRs: [a, 10.0.0.0/8, b]}
---
apiVersion: ipvsagent.io/v1alpha1
kind: IPVSAgentConfiguration
drain: 1s
"""
    resolved = resolve({"--allow-external-ips": "c"}, {"c.yaml": text})
    assert [str(problem) for problem in resolved.problems] == [
        "c.yaml: KubeProxyConfiguration mode: 'userspace' is not one of auto, ipvs, iptables, nftables",
        "c.yaml: KubeProxyConfiguration ipvs.tcpTimeout: 'soon' is not a duration; write for example 30s, 15m or 1h30m",
        "c.yaml: KubeProxyConfiguration ipvs.excludeCIDRs: 'a' is not a CIDR; write for example 10.0.0.0/8 "
        "or fd00::/64",
        "c.yaml: KubeProxyConfiguration ipvs.excludeCIDRs: 'b' is not a CIDR; write for example 10.0.0.0/8 "
        "or fd00::/64",
        "c.yaml: IPVSAgentConfiguration drain: is not a field of IPVSAgentConfiguration",
        "--allow-external-ips: 'c' is not a CIDR; write for example 10.0.0.0/8 or fd00::/64",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "c: is empty"),
        (b"a: [", "c: is not YAML: while parsing a flow node"),
        (b"a: 1\na: 2", "key 'a' is set twice"),
        (b"- 1", "c: has a document that is not a mapping"),
        (b"mode: ipvs", "c: has a document without a kind; it must be KubeProxyConfiguration or IPVSAgentConf"),
        (b"{apiVersion: v1, kind: Pod}", "c: has a document of kind 'Pod'"),
        (b"{apiVersion: v1, kind: ConfigMap, data: {a: b}}", "c: ConfigMap data: no entry has a KubeProxyConf"),
        (
            b"{apiVersion: kubeproxy.config.k8s.io/v1, kind: KubeProxyConfiguration}",
            "c: KubeProxyConfiguration apiVersion: is 'kubeproxy.config.k8s.io/v1'; only kubeproxy.config.k8s.io/v1al",
        ),
        (b"[" * 5000, "c: is nested too deeply"),
        (b"\xff\xfe\x00", "c: is not YAML"),
    ],
)
def test_files_that_are_no_configuration(content: bytes, said: str) -> None:
    (problem,) = resolve({}, {"c": content}).problems
    assert said in str(problem)


def test_the_same_kind_twice_is_refused() -> None:
    one = document(KUBE_PROXY, "mode", "ipvs")
    (problem,) = resolve({}, {"a": one, "b": one}).problems
    assert str(problem) == "b: KubeProxyConfiguration: is present twice; the first is in a"


def test_two_files_and_json() -> None:
    text = b'{"apiVersion": "ipvsagent.io/v1alpha1", "kind": "IPVSAgentConfiguration", "drainTimeout": "1s"}'
    config = resolve({}, {"a": document(KUBE_PROXY, "ipvs.scheduler", "lc"), "b.json": text}).required()
    assert (config.scheduler, config.drain_timeout) == ("lc", 1.0)


def test_unknown_fields_of_kube_proxy_are_warnings() -> None:
    assert said(of_field(KUBE_PROXY, "ipvs.sheduler", "lc")) == [
        "c.yaml: KubeProxyConfiguration ipvs.sheduler: is not a field of kube-proxy's and has no effect; did you mean "
        "ipvs.scheduler?"
    ]


@pytest.mark.parametrize("entry", WITHOUT_EFFECT, ids=lambda e: e.path or e.options[0])
def test_without_effect_is_said(entry: Any) -> None:
    value, text = {
        bool: (True, "true"),
        int: (7, "7"),
        int | str: (7, "0x7"),
        float: (7.5, "7.5"),
    }.get(entry.kind.wire, ("7m", "7m"))
    if entry.path:
        resolved = of_field(entry.document, entry.path, value)
        assert resolved.required() == Config()
        assert said(resolved) == [f"c.yaml: {entry.document.kind} {entry.path}: has no effect: {entry.why}"]
        for usual in entry.usual:
            written = f"{usual:g}s" if isinstance(usual, float) and entry.kind.wire is str else usual
            assert not said(of_field(entry.document, entry.path, written))
    if entry.options:
        resolved = resolve({entry.options[0]: text})
        assert resolved.required() == Config()
        assert said(resolved) == [f"{entry.options[0]}: has no effect: {entry.why}"]


def test_modes_that_are_not_ours_mean_auto() -> None:
    for mode, said_of_it in (("nftables", "is nftables"), ("", "is empty, which means iptables for kube-proxy")):
        resolved = of_field(KUBE_PROXY, "mode", mode)
        assert resolved.required().backend is BackendChoice.AUTO
        assert f"KubeProxyConfiguration mode: {said_of_it}; here it means auto" in str(resolved.warnings[0])
    assert not [w for w in of_field(KUBE_PROXY, "mode", "auto").warnings if w.path == "mode"]


def test_external_ips_by_feature_gate() -> None:
    gates = {"AllowServiceExternalIPs": True, "TopologyAwareHints": True}
    resolved = of_field(KUBE_PROXY, "featureGates", gates)
    assert resolved.required().allowed_external == EVERY_ADDRESS
    assert said(resolved) == [
        "c.yaml: KubeProxyConfiguration featureGates.TopologyAwareHints: has no effect: ipvsagent does not have this "
        "feature gate"
    ]
    assert resolve({"--feature-gates": "AllowServiceExternalIPs=true"}).required().allowed_external == EVERY_ADDRESS
    assert of_field(KUBE_PROXY, "featureGates", {"AllowServiceExternalIPs": False}).required() == Config()
    # Our own, narrower list is the more exact word.
    narrow = document(AGENT, "allowExternalIPs", ["192.0.2.0/24"])
    both = resolve({}, {"a": document(KUBE_PROXY, "featureGates", gates), "b": narrow})
    assert both.required().allowed_external == (parse_network("192.0.2.0/24"),)


def test_options_that_a_kube_proxy_document_decides_are_named() -> None:
    files = {"c.yaml": document(KUBE_PROXY, "ipvs.scheduler", "lc")}
    options = {
        "--scheduler": "wlc",
        "--cluster-cidr": "wrong",
        "--feature-gates": "AllowServiceExternalIPs=true",
        "--hostname-override": "n",
        "--v": "5",
        "--drain-timeout": "1s",
        "--master": "https://a",
    }
    resolved = resolve(options, files)
    config = resolved.required()
    assert (config.scheduler, config.node_name, config.log_level) == ("lc", "n", "debug")
    assert (config.drain_timeout, config.master, config.allowed_external) == (1.0, "https://a", ())
    assert said(resolved) == [
        f"{option}: is ignored: the KubeProxyConfiguration in c.yaml decides ({path})"
        for option, path in (
            ("--scheduler", "ipvs.scheduler"),
            ("--cluster-cidr", "clusterCIDR"),
            ("--feature-gates", "featureGates"),
        )
    ]


def test_our_own_options_win_over_our_own_document() -> None:
    files = {"c": document(AGENT, "drainTimeout", "1m")}
    assert resolve({"--drain-timeout": "1s", "--scheduler": "lc"}, files).required() == Config(
        drain_timeout=1.0, scheduler="lc"
    )


def test_log_level_by_verbosity() -> None:
    assert of_field(KUBE_PROXY, "logging.verbosity", 4).required().log_level == "debug"
    assert of_field(KUBE_PROXY, "logging.verbosity", 3).required().log_level == "info"
    assert resolve({"--v": "=6"}).required().log_level == "debug"
    assert resolve({"--v": "6", "--log-level": "error"}).required().log_level == "error"


@pytest.mark.parametrize(
    ("options", "healthz", "metrics"),
    [
        ({"--bind-address": "fd00::1"}, "[::]:10256", "[::1]:10249"),
        ({"--bind-address": "::", "--healthz-bind-address": "1.2.3.4"}, "1.2.3.4:10256", "[::1]:10249"),
        ({"--healthz-bind-address": "::1", "--metrics-bind-address": "[::1]"}, "[::1]:10256", "[::1]:10249"),
        ({"--healthz-bind-address": "", "--metrics-bind-address": "0.0.0.0:0"}, "", ""),
        ({"--healthz-port": "0", "--metrics-port": "0"}, "", ""),
        ({"--healthz-port": "0", "--healthz-bind-address": "1.2.3.4:5"}, "", "127.0.0.1:10249"),
        ({"--healthz-port": "10256"}, "0.0.0.0:10256", "127.0.0.1:10249"),
    ],
)
def test_listeners(options: dict[str, str], healthz: str, metrics: str) -> None:
    config = resolve(options).required()
    assert (config.healthz_address, config.metrics_address) == (healthz, metrics)


@pytest.mark.parametrize(
    ("option", "text", "reason"),
    [
        ("--ipvs-sync-period", "0", "0 is not greater than 0"),
        ("--masquerade-all", "maybe", "'maybe' is neither true nor false"),
        ("--iptables-masquerade-bit", "x", "'x' is not a whole number"),
        ("--feature-gates", "A", "'A' is not NAME=true or NAME=false"),
        ("--kube-api-qps", "x", "'x' is not a number"),
        ("--hostname-override", " ", "' ' is not a name"),
        ("--pod-bridge-interface", "a b", "'a b' is not the name of an interface"),
    ],
)
def test_wrong_options(option: str, text: str, reason: str) -> None:
    assert [str(problem) for problem in resolve({option: text}).problems] == [f"{option}: {reason}"]
