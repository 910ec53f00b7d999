"""What `status` and `save` show: the agent's snapshot, and the texts and documents made from it. Everything is pure,
except `socket.py`, the two ends of the socket that carries a snapshot."""
