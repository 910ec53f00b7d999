"""The backends: what serves Services on this node."""
