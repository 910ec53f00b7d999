"""Accesses IPVS over generic netlink: its table, the messages, and the ownership of virtual servers."""
