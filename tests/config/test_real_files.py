"""Configurations of kube-proxy as installers write them are taken as they are."""

from __future__ import annotations

from pathlib import Path

from ipvsagent.cli.run import command
from ipvsagent.config import BackendChoice, Config, parse_network, resolve
from ipvsagent.config.resolve import ENTRIES

FILES = Path(__file__).parent / "files"


def said(remarks: object) -> list[str]:
    """Without "has no effect yet", which says when a piece is made and not what is written."""
    return [str(each) for each in remarks if "has no effect yet" not in str(each)]  # type: ignore[attr-defined]


def of_file(name: str) -> tuple[Config, list[str]]:
    found = resolve({}, {name: (FILES / name).read_bytes()})
    assert not found.problems
    return found.required(), said(found.warnings)


def test_kubeadm() -> None:
    config, warnings = of_file("kubeadm.yaml")
    assert not warnings
    assert config == Config(
        backend=BackendChoice.IPVS,
        strict_arp=True,
        kubeconfig="/var/lib/kube-proxy/kubeconfig.conf",
        cluster_cidrs=(parse_network("10.244.0.0/16"),),
    )


def test_kubespray() -> None:
    config, warnings = of_file("kubespray.yaml")
    assert not warnings
    assert config == Config(
        backend=BackendChoice.IPVS,
        node_name="node-1",
        scheduler="wlc",
        strict_arp=True,
        cluster_cidrs=(parse_network("10.233.64.0/18"), parse_network("fd85:ee78:d8a6:8607::1:0/112")),
        excluded=(parse_network("10.10.0.0/24"),),
        node_port_addresses=("192.168.0.0/16",),
        tcp_timeout=7200,
        tcp_fin_timeout=120,
        udp_timeout=300,
    )


def test_eks() -> None:
    config, warnings = of_file("eks.yaml")
    assert not warnings
    assert config == Config(
        backend=BackendChoice.IPTABLES,
        kubeconfig="/var/lib/kube-proxy/kubeconfig",
        metrics_address="0.0.0.0:10249",
        oom_score_adj=-998,
    )


def of_words(*words: str) -> tuple[Config, list[str]]:
    """What `run` makes of a command line."""
    context = command.make_context("run", list(words))
    texts = {}
    for entry in ENTRIES:
        if entry.options:
            name = next(p.name for p in command.params if entry.options[0] in p.opts)
            if context.params[name] not in (None, ()):
                texts[entry.options[0]] = context.params[name]
    found = resolve(texts)
    return found.required(), said(found.warnings)


def test_k3s_flags() -> None:
    config, warnings = of_words(
        "--cluster-cidr=10.42.0.0/16",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--conntrack-tcp-timeout-established=0s",
        "--healthz-bind-address=127.0.0.1",
        "--hostname-override=k3s-server-0",
        "--kubeconfig=/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig",
        "--proxy-mode=ipvs",
        "--ipvs-scheduler=lc",
        "--masquerade-all=true",
    )
    assert not warnings
    assert config == Config(
        backend=BackendChoice.IPVS,
        node_name="k3s-server-0",
        scheduler="lc",
        masquerade_all=True,
        cluster_cidrs=(parse_network("10.42.0.0/16"),),
        conntrack_max_per_core=0,
        conntrack_tcp_close_wait=0,
        conntrack_tcp_established=0,
        healthz_address="127.0.0.1:10256",
        kubeconfig="/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig",
    )


def test_kops_flags() -> None:
    config, warnings = of_words(
        "--cluster-cidr=100.96.0.0/11",
        "--conntrack-max-per-core=131072",
        "--hostname-override=ip-172-20-40-12.eu-west-1.compute.internal",
        "--kubeconfig=/var/lib/kube-proxy/kubeconfig",
        "--master=https://api.internal.example.com",
        "--oom-score-adj=-998",
        "--v=2",
        "--logtostderr=false",
        "--alsologtostderr",
        "--log-file=/var/log/kube-proxy.log",
    )
    assert [each.split(":")[0] for each in warnings] == ["--alsologtostderr", "--log-file", "--logtostderr"]
    assert config.master == "https://api.internal.example.com"
    assert (config.conntrack_max_per_core, config.oom_score_adj, config.log_level) == (131072, -998, "info")


def test_talos_flags() -> None:
    config, warnings = of_words(
        "--cluster-cidr=10.244.0.0/16,fc00:db8:10::/56",
        "--conntrack-max-per-core=0",
        "--hostname-override=$(NODE_NAME)",
        "--kubeconfig=/etc/kubernetes/kubeconfig",
        "--proxy-mode=nftables",
        "--nodeport-addresses=10.0.0.0/8",
        "--nodeport-addresses=fd00::/8",
        "-v=4",
    )
    assert not warnings
    assert config.backend is BackendChoice.AUTO and config.log_level == "debug"
    assert config.node_port_addresses == ("10.0.0.0/8", "fd00::/8")
    assert len(config.cluster_cidrs) == 2
