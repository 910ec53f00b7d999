"""Virtual servers and constant packet rules in iptables' words."""
