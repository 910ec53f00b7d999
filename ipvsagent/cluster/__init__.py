"""Decodes Kubernetes objects, and keeps the table of Services made from them. Pure."""
