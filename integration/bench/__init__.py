"""Measurements that a developer runs by hand; none is a test, because machines and their load differ."""
