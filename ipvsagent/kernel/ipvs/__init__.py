"""IPVS over generic netlink."""
