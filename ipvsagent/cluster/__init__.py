"""Kubernetes objects of the cluster, decoded, and the table of Services made from them. Pure."""
