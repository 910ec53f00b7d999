"""Finds and removes what kube-proxy left on the node."""
