"""Describes what a backend can do, as far as policy depends on it."""

from __future__ import annotations

from msgspec import Struct


class Capabilities(Struct, frozen=True):
    """Describes the abilities of one backend."""

    schedulers: bool
    """It has IPVS' schedulers and one-packet scheduling; otherwise it chooses endpoints at random, by weight."""
    both_sets: bool
    """A virtual server has real servers for clients outside and others for clients on this node. Otherwise it has one
    set, and clients on this node are translated to a virtual server with all endpoints."""
    takes_untracked: bool
    """It takes packets that are exempt from connection tracking, too, so that a program of the node that serves a
    cluster IP by itself needs that address for its own."""
    binds: bool
    """Addresses of Services become addresses of this node."""
    localhost_node_ports: bool = False
    """Node ports are served on 127.0.0.1, too."""


IPVS = Capabilities(schedulers=True, both_sets=False, takes_untracked=True, binds=True)
IPTABLES = Capabilities(schedulers=False, both_sets=True, takes_untracked=False, binds=False)
