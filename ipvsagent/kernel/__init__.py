"""The only code that touches the kernel: tables of IPVS and of addresses, the fake that stands in for them, what
the host must provide, and notice of changes.

It takes and gives rows (`ipvsagent.rows`), and knows nothing of Services, policy or reconciliation. Nothing here
starts a thread; a table belongs to one caller at a time, and to the network namespace it was made in.
"""
