"""Brings the kernel from what it holds to what is desired. Pure, given kernel tables and `now`.

Read `reconciler.py` first: one round, and the full comparison. `states.py` holds what is believed about each virtual
server, `drain.py` decides when a real server may go, `shared.py` counts rows that several virtual servers need, and
`retry.py` decides when to try again.
"""
