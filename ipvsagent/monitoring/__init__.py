"""Monitoring of the agent: health, metrics, and notifications of systemd."""
