"""Implements the ways to serve Services on this node: by IPVS, and by iptables."""
