"""What the project claims about its speed and size, measured on a kernel in one run, with a verdict.

`python -m integration.bench` compares three ways to program the same Services:

ours       the agent's own pipeline, from decoded objects;
reference  what an operator has: `ipvsadm -R` and `ip -batch`, fed with prepared text;
floor      a raw netlink socket that knows the messages beforehand (`floor.py`): what the kernel itself costs.

Map: `cluster.py` is the input, `stand.py` a namespace to measure in, `session.py` the order of measurements,
`worker.py` what runs in a process of its own (`programming.py`, `changes.py`, `audit.py`, `restart.py`), `idle.py`
and `probe.py` look at the agent from outside, `api.py` with `api_*.py` at everything from an API server to the kernel,
`claims.py` judges the figures, `table.py` prints them.

Each programming run has a new network namespace: where real servers were deleted, later additions are slow for
minutes (see kernel/ipvs/table.py of the agent). In a guest, system calls and page faults are several times dearer
than on a machine, and there is one CPU: ratios hold, absolute times are pessimistic.
"""
