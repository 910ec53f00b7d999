"""What is written loads back to the same `Config`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.config import BackendChoice, Config, PortRange, resolve
from ipvsagent.config.parsers import parse_duration, write_duration
from ipvsagent.config.write import written

NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,10}", fullmatch=True)
PATHS = st.from_regex(r"/[a-z]{1,5}(/[a-z.]{1,5})?", fullmatch=True)
SECONDS = st.one_of(st.integers(0, 10**7).map(float), st.integers(1, 10**9).map(lambda n: n / 1e6))
NETWORKS_4 = st.ip_addresses(v=4).flatmap(
    lambda a: st.integers(0, 32).map(lambda n: ipaddress.ip_network(f"{a}/{n}", strict=False))
)
NETWORKS_6 = st.ip_addresses(v=6).flatmap(
    lambda a: st.integers(0, 128).map(lambda n: ipaddress.ip_network(f"{a}/{n}", strict=False))
)
NETWORKS = st.lists(NETWORKS_4 | NETWORKS_6, max_size=3).map(tuple)
LISTENERS = st.just("") | st.builds(
    lambda a, port: f"[{a}]:{port}" if a.version == 6 else f"{a}:{port}", st.ip_addresses(), st.integers(1, 65535)
)
DETECTORS = st.one_of(
    st.fixed_dictionaries({"detect_local": st.sampled_from(["ClusterCIDR", "NodeCIDR"])}),
    st.fixed_dictionaries({"detect_local": st.just("BridgeInterface"), "pod_bridge": NAMES}),
    st.fixed_dictionaries({"detect_local": st.just("InterfaceNamePrefix"), "pod_interface_prefix": NAMES}),
)
ROUTES = st.one_of(
    st.fixed_dictionaries({"service_cidrs": NETWORKS}),
    st.fixed_dictionaries({"service_cidrs": NETWORKS.filter(bool), "route_mode": st.just(True)}),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "sources": st.lists(PATHS.map(Path), max_size=3).map(tuple),
    "kubeconfig": st.just("") | PATHS,
    "node_name": st.just("") | NAMES,
    "allow_empty": st.booleans(),
    "backend": st.sampled_from([BackendChoice.AUTO, BackendChoice.IPVS]),
    "interface": NAMES,
    "scheduler": NAMES,
    "excluded": NETWORKS,
    "allowed_external": NETWORKS,
    "node_port_addresses": st.just(("primary",)) | NETWORKS.map(lambda each: tuple(map(str, each))),
    "bind_address": st.ip_addresses().map(str),
    "drain_timeout": SECONDS,
    "cluster_cidrs": st.one_of(
        st.just(()), st.tuples(NETWORKS_4), st.tuples(NETWORKS_6), st.tuples(NETWORKS_6, NETWORKS_4)
    ),
    "masquerade_all": st.booleans(),
    "masquerade_bit": st.integers(0, 31),
    "localhost_node_ports": st.booleans(),
    "tcp_fin_timeout": SECONDS,
    "udp_timeout": SECONDS,
    "allow_api_by_cluster_ip": st.booleans(),
    "answer_arp": st.booleans(),
    "strict_arp": st.booleans(),
    "conntrack_max_per_core": st.integers(0, 2**31 - 1),
    "conntrack_min": st.integers(0, 2**31 - 1),
    "conntrack_tcp_established": SECONDS,
    "conntrack_tcp_close_wait": SECONDS,
    "conntrack_be_liberal": st.booleans(),
    "conntrack_udp": SECONDS,
    "conntrack_udp_stream": SECONDS,
    "service_node_port_range": st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(
        lambda ports: PortRange(min(ports), max(ports))
    ),
    "oom_score_adj": st.integers(-1000, 1000),
    "healthz_address": LISTENERS,
    "metrics_address": LISTENERS,
    "bind_hard_fail": st.booleans(),
    "events": st.booleans(),
    "sync_period": SECONDS.filter(bool),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    "state_dir": PATHS.map(Path),
}
IDLE = st.one_of(st.fixed_dictionaries({"tcp_timeout": SECONDS}), st.fixed_dictionaries({"idle_timeout": SECONDS}))
CONFIGS = st.builds(
    lambda fields, detector, routes, idle: Config(**{**fields, **detector, **routes, **idle}),
    st.fixed_dictionaries({}, optional=FIELDS),
    DETECTORS,
    ROUTES,
    IDLE,
)


def test_every_field_is_tried() -> None:
    by_hand = {
        "detect_local",
        "pod_bridge",
        "pod_interface_prefix",
        "service_cidrs",
        "route_mode",
        "tcp_timeout",
        "idle_timeout",
    }
    assert FIELDS.keys() | by_hand | {"master", "window"} == set(Config.__struct_fields__)


@given(CONFIGS)
def test_what_is_written_loads_back(config: Config) -> None:
    resolved = resolve({}, {"c.yaml": written(config).encode()})
    assert not resolved.problems
    assert resolved.required() == config
    assert not [w for w in resolved.warnings if "has no effect yet" not in w.reason]


@given(SECONDS)
def test_durations(seconds: float) -> None:
    assert parse_duration(write_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.1, "0.1s"), (30, "30s"), (90, "1m30s"), (3600, "1h"), (86461, "24h1m1s"), (1e-6, "0.000001000s")],
)
def test_durations_are_written_as_people_write_them(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text


def test_kube_proxys_names_are_used() -> None:
    kube_proxy, ours = yaml.safe_load_all(written(Config(scheduler="lc", drain_timeout=60)))
    assert (kube_proxy["apiVersion"], kube_proxy["kind"]) == (
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
    )
    assert kube_proxy["ipvs"]["scheduler"] == "lc"
    assert (ours["apiVersion"], ours["kind"], ours["drainTimeout"]) == (
        "ipvsagent.io/v1alpha1",
        "IPVSAgentConfiguration",
        "1m",
    )
