"""Packet rules in the kernel, read and written with the iptables programs."""
