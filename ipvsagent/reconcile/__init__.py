"""Getting from what the kernel holds to what is wanted. Pure, given kernel tables and `now`.

`reconciler.py` is one round and the full comparison; it is meant to be read first. `drain.py` decides when a real
server may go, `shared.py` counts rows that several virtual servers need, `retry.py` says when to try again.
"""
