"""Reports how the agent works: health, metrics, and notifications to systemd."""
