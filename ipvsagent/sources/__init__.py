"""Provides sources of objects: the Kubernetes API and files, each followed by a thread that only fills the inbox."""
