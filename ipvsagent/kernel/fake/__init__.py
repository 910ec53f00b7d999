"""Provides a kernel in memory, which passes the same contract tests as the real one."""
