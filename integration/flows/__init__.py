"""The packet table: what must happen to a packet to a Service, case by case, on a real kernel.

    table.txt    the cases, in words, and where they run; to be read and extended first
    table.py     reads it and multiplies it out
    network.py   the addresses of the words: nodes, pods, clients, Services; and the Services as Kubernetes objects
    stand.py     one network with one agent on it, and what it answered
    verdict.py   whether that is what the table says
    defects.txt  cases known to fail, with a reason; a mark that is no longer needed is a failure too

    python -m integration.guest -- python -m integration.flows [--only PATTERN] [--stand NAME]

The expected results follow from what a Service is, not from IPVS; where another backend may answer otherwise, a
column says so.
"""
