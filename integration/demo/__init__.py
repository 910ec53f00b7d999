"""The proxy at work, to look at: a shop's Services on three nodes, real connections, and what became of them.

`python -m integration.demo` needs no cluster, and no privileges where a guest can boot. Every step states what
must hold; the exit status says whether all of it did.
"""
