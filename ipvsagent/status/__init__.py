"""Makes what `status` and `save` show: the agent's snapshot, and texts and documents from it. Everything is pure,
except `socket.py`, the two ends of the socket that carries a snapshot."""
