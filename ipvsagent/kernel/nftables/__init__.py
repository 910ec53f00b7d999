"""Tables of nftables over nfnetlink."""
