"""Renders virtual servers as kernel rows, one module for each backend. Pure: it knows the model and the rows, not
the cluster."""
