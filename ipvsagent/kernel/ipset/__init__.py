"""Reads and writes ipsets over nfnetlink."""
