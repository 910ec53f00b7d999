"""Decides what this node should serve: objects and facts of the node in, virtual servers and findings out. Pure.

`endpoints.py` chooses the endpoints of one Service port, `fronts.py` the addresses that it is served on,
`virtual_servers.py` makes virtual servers of both, and `desired.py` decides which Service gets an address and port that
several claim. Nothing here knows how a kernel stores anything, or what it holds now.
"""
