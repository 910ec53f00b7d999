"""Runs the agent."""
