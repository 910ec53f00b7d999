"""Reaches the Kubernetes API, and writes Events there."""
