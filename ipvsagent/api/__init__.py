"""The Kubernetes API: how it is reached, and the Events that are written there."""
