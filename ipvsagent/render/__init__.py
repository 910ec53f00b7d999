"""Renders virtual servers as kernel rows, one module for each backend. Pure; knows the model and rows, not the
cluster."""
