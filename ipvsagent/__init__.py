"""ipvsagent: Kubernetes Services on IPVS.

A node agent that reads Services and EndpointSlices and keeps the kernel's IPVS table, and one dummy interface,
equal to what they ask for on this node. This docstring is the map.

    sources/  ──Changes──▶  cluster/  ──dirty──▶  policy/  ──changed ids──▶  reconcile/  ──ops──▶  kernel/
    API, files              ServiceTable          what should be            diff, drain, retry     IPVS, addresses, sets
                                                                            render/: model → rows

`loop.py` drives it, between the threads of `agent.py`; `pipeline.py` is the same chain without threads and clock, and
so is all of `run`, `plan`, `cleanup` and the tests. State is kept at the grain of a virtual server, work is done at the
grain of a kernel row, and cost follows the change.

To understand it in ten minutes: `model.py`, `rows.py`, `reconcile/reconciler.py`.

Where do I change...
    which endpoints get traffic              policy/endpoints.py
    which addresses a Service is served on   policy/virtual_servers.py
    who wins when two Services claim one     policy/desired.py
    what an object must look like            cluster/decode.py
    how the API is listed and watched        sources/watch.py, states.py; their edge: follow.py, kubernetes.py
    how the API is reached, and as whom      api/credentials.py, kubeconfig.py, transport.py
    what a broken or vanished object does    cluster/mirror.py for the API, cluster/manifest_set.py for files
    how files are read and followed          cluster/manifests.py (rules), sources/manifests.py (I/O)
    how long a real server drains            reconcile/drain.py, its table
    what is repaired, and when               reconcile/reconciler.py; what is looked at, reconcile/audit.py
    a netlink message                        kernel/ipvs/requests.py, ipvs_answers.py; addresses.py; ipset_messages.py
    a packet rule                            render/iptables/ipvs_rules.py; what a Service puts into an ipset: render/set_members.py
    who gets which endpoints of a Local one  policy/virtual_servers.py; as virtual servers: render/node_clients.py
    how rules are written and kept           kernel/iptables*.py, packet_filter.py
    Services without IPVS                    render/iptables/nat_chains.py, nat_rules.py; chain_rows.py; kernel/iptables/server_table.py
    which backend, and changing it           choice.py; iptables_node.py, node.py, retirement.py
    what kube-proxy left                     kernel/kube_proxy/cleanup.py, kube_proxy_sets.py, _rules.py; nftables.py
    which tables of others are in the way    kernel/neighbours/obstacles.py, verdicts.py; nftables.py, nft_messages.py
    a setting, an option                     config/service_settings.py, host_settings.py; config/settings.py
    what a changed configuration file does   sources/configuration.py, config/takeover.py, reconfiguration.py
    what must be there to start              kernel/host.py; kernel settings: kernel/sysctls.py, conntrack_sysctls.py
    source ports of the node's own           kernel/reserved_ports.py
    who answers ARP for Service addresses    kernel/arp.py; how addresses are bound: kernel/addresses.py
    what happens to UDP flows of old times   udp_flows.py, kernel/conntrack.py
    ranges delivered by a route              policy/routes.py, kernel/service_routes.py
    what `check` looks at                    checks.py; CNI plugins, firewalls, runtimes: kernel/neighbours/programs.py
    a column of `status`                     status/native.py; ipvsadm's own text: status/ipvsadm*.py, cli/save.py
    what makes the agent unhealthy           monitoring/health.py; a metric: status/*metrics.py; told by monitoring/vitals.py
    which finding is an Event, and when      events/event.py, plan.py; how it is written: api/event_writer.py
    an HTTP path                             monitoring/server.py; Services' health checks: policy/health_checks.py
    how it is deployed                       Containerfile, manifests/, systemd/
    a command                                cli/, one file per command

Layers, held by tests/test_layers.py: cli → agent, once → loop → announce, checks → choice, node, iptables_node,
retirement, packet_filter, udp_flows → sources, status, kernel → pipeline → reconcile, render, policy → cluster,
events → config → rows, chain_rows, packet_rules → model, findings, errors, address, source_ranges, yaml_documents,
wrong_types, printable. Everything from pipeline on, except config, is pure: no clock, no I/O, no threads.
"""

__version__ = "0.1.0"
