"""Inspects the packet rules and interfaces of other programs on the node."""
