"""This module installs what kube-proxy's ipvs mode leaves in table filter: it refuses Services that it never knew.

After pkg/proxy/ipvs/proxier.go of Kubernetes 1.36. What it translates and masquerades is not here.
"""

from __future__ import annotations

from collections.abc import Iterable

from integration.flows.neighbours.recorded import by_version, restore
from integration.lab import Namespace

_RULES = """*filter
:KUBE-IPVS-FILTER -
:KUBE-PROXY-FIREWALL -
:KUBE-SOURCE-RANGES-FIREWALL -
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A KUBE-IPVS-FILTER -m set --match-set {prefix}CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {prefix}IPVS-IPS dst -j REJECT
-A KUBE-PROXY-FIREWALL -m set --match-set {prefix}LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"""


def install_kube_proxy(node: Namespace, addresses: Iterable[str], closed: Iterable[tuple[str, int]] = ()) -> None:
    """Installs its chains and sets, for both families.

    addresses: of Services, on any port of which it refuses what it does not know. closed: addresses and TCP ports that
    it keeps closed for everybody, by source ranges of then. Raises LabError if a tool refuses.
    """
    ports = dict(closed)
    for version, own in by_version(addresses).items():
        prefix, family = ("KUBE-6-", "inet6") if version == 6 else ("KUBE-", "inet")
        lines = [f"create {prefix}CLUSTER-IP hash:ip,port family {family}"]
        lines += [f"create {prefix}LOAD-BALANCER-FW hash:ip,port family {family}"]
        lines += [f"create {prefix}IPVS-IPS hash:ip family {family}"]
        lines += [f"add {prefix}IPVS-IPS {address}" for address in own]
        lines += [f"add {prefix}LOAD-BALANCER-FW {a},tcp:{ports[a]}" for a in own if a in ports]
        node.run("ipset", "restore", stdin="".join(f"{line}\n" for line in lines))
        restore(node, version, _RULES.format(prefix=prefix))
