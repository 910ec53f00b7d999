"""Backends: the ways to serve Services on this node, by IPVS or by iptables."""
