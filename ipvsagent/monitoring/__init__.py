"""How the agent is watched: health, metrics, systemd."""
