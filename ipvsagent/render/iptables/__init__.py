"""Renders virtual servers and constant packet rules as iptables rules."""
