"""What should happen on this node. Pure: objects and node facts in, virtual servers and findings out.

`endpoints.py` chooses endpoints for one Service port, `virtual_servers.py` turns one Service into its virtual
servers, `desired.py` settles who gets an address and port that several Services claim. Nothing here knows
how a kernel stores anything, or what it holds now.
"""
