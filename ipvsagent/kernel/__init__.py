"""Accesses the kernel: tables of IPVS, addresses, routes, ipsets and packet rules, kernel settings, and notice of
changes; and a fake kernel for tests.

Tables read and write rows (`ipvsagent.rows`), and know nothing of Services, policy or reconciliation. Nothing here
starts a thread. A table belongs to one caller at a time, and to the network namespace in which it was opened.
"""
