"""What a backend can do, as far as policy depends on it."""

from __future__ import annotations

from msgspec import Struct


class Capabilities(Struct, frozen=True):
    """One value for each backend.

    schedulers:           it has IPVS' schedulers and one-packet scheduling; otherwise endpoints are chosen at random,
                          by weight.
    both_sets:            a virtual server has real servers for clients outside and for clients on this node; otherwise
                          it has one set, and the latter are translated to a virtual server with all of them.
    takes_untracked:      it takes packets that connection tracking leaves out, so that a program of the node that
                          serves a cluster IP by itself needs that address for its own.
    binds:                addresses of Services become addresses of this node.
    localhost_node_ports: node ports are served on 127.0.0.1, too.
    """

    schedulers: bool
    both_sets: bool
    takes_untracked: bool
    binds: bool
    localhost_node_ports: bool = False


IPVS = Capabilities(schedulers=True, both_sets=False, takes_untracked=True, binds=True)
IPTABLES = Capabilities(schedulers=False, both_sets=True, takes_untracked=False, binds=False)
