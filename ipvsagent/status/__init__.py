"""What people and programs see: the agent's snapshot, and the texts and documents made from it. Pure but for
`socket.py`, the two ends of the socket that carries a snapshot, and what HTTP and systemd are told: `listeners.py`,
`server.py`, `service_health.py`, `metrics.py`, `supervisor.py`, put together for the loop by `vitals.py`."""
