"""Cluster CIDRs that have a meaning, but hardly the one that was meant."""

from __future__ import annotations

import pytest

from ipvsagent.config import resolve


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.244.0.0", ["--cluster-cidr: 10.244.0.0 has no prefix length: it counts as the one address 10.244.0.0/32"]),
        (
            "10.244.1.0/16",
            ["--cluster-cidr: 10.244.1.0/16 has bits beyond its prefix length: it counts as 10.244.0.0/16"],
        ),
        ("10.244.0.0/16, fd00:0::/48", []),
    ],
)
def test_cluster_cidrs(text: str, said: list[str]) -> None:
    resolved = resolve({"--cluster-cidr": text})
    assert resolved.config is not None
    assert [str(warning) for warning in resolved.warnings] == said
    document = (
        f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\nclusterCIDR: {text}"
    )
    assert len(resolve({}, {"c.yaml": document.encode()}).warnings) == len(said)
