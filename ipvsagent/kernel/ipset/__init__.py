"""The ipsets over nfnetlink."""
