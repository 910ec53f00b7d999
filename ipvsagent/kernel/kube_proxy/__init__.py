"""What kube-proxy left on the node."""
