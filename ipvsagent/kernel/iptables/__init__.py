"""The iptables programs, and the rules in them."""
