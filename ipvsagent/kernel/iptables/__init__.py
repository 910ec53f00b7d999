"""Reads and writes packet rules in the kernel with the iptables programs."""
