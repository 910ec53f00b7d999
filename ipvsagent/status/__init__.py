"""What people and programs see: the agent's snapshot, and the texts and documents made from it. Pure but for
`socket.py`, the two ends of the socket that carries a snapshot."""
