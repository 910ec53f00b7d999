"""Reads and deletes tables of nftables over nfnetlink."""
