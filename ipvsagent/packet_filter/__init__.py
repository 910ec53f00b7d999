"""Keeps the constant packet rules of this node."""
