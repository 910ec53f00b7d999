"""Serves Kubernetes Services on IPVS.

This node agent reads Services and EndpointSlices, and keeps the kernel's IPVS table and one dummy interface equal to
what they ask for on this node. This docstring is the map.

    sources/  ──Changes──▶  cluster/  ──dirty──▶  policy/  ──changed ids──▶  reconcile/  ──ops──▶  kernel/
    API, files              ServiceTable          what should be            diff, drain, retry     IPVS, addresses, sets
                                                                            render/: model → rows

`agent/loop.py` drives it, between the threads of `agent/agent.py`; `pipeline.py` is the same chain without threads and
clock, and so is all of `run`, `plan`, `cleanup` and the tests. State is kept at the grain of a virtual server, work is
done at the grain of a kernel row, and cost follows the change.

To understand it in ten minutes: `model.py`, `rows/__init__.py`, `reconcile/reconciler.py`.

Where do I change...

  what is read
    a field of Service, Node or EndpointSlice  cluster/wire.py, objects.py, then cluster/decode.py, decode_service.py,
                                               cluster/decode_node.py, decode_slice.py
    how the API is listed and watched          sources/watch.py, sources/states.py; their edge: sources/follow.py
    how the API is reached, and as whom        api/credentials.py, api/kubeconfig.py, api/transport.py
    what a broken or vanished object does      cluster/mirror.py for the API, cluster/manifest_set.py for files
    how files are read and followed            cluster/manifests.py (rules), sources/manifests.py (I/O)
    a setting, an option                       config/service_settings.py, config/host_settings.py, config/settings.py
    what a changed configuration file does     sources/configuration.py, config/reload.py, agent/reconfiguration.py

  what should be
    which endpoints get traffic                policy/endpoints.py
    which addresses a Service is served on     policy/fronts.py; which Service wins one: policy/desired.py
    an annotation, a scheduler flag            policy/annotations.py, then policy/virtual_servers.py; of a Node:
                                               policy/node.py; which prefixes are kept: cluster/fields.py; a flag's
                                               name in ipvsadm: rows/ipvs.py
    health checks of Services                  policy/health_checks.py
    ranges delivered by a route                policy/routes.py, kernel/service_routes.py
    what a backend can do                      policy/capabilities.py

  what is written
    how long a real server drains              reconcile/drain.py, its table; the option: config/service_settings.py,
                                               the default: config/settings.py, of a Service: policy/annotations.py
    what is repaired, and when                 reconcile/reconciler.py; what is looked at: reconcile/audit.py
    what is known of a virtual server          reconcile/states.py; of those in a round: reconcile/batch.py
    a kind of kernel row                       rows/ipvs.py, rows/shared.py, rows/nat_chains.py
    a netlink message                          kernel/ipvs/requests.py, kernel/ipvs/answers.py, kernel/addresses.py
    a member of an ipset                       render/set_members.py; its message: kernel/ipset/messages.py
    what goes through pyroute2                 kernel/pyroute.py; why not the rest: docs/pyroute2.md

  packet rules
    a packet rule beside IPVS                  render/iptables/ipvs_rules.py
    where an accept of ours is placed          kernel/iptables/defaults.py
    a packet rule of the iptables backend      render/iptables/nat_rules.py
    a packet rule with both backends           the public functions of render/iptables/ipvs_rules.py
    a virtual server without IPVS              render/iptables/nat_chains.py, kernel/iptables/server_chains.py
    how rules are written and repaired         kernel/iptables/rule_table.py, kernel/iptables/text.py
    a second rule tool                         chosen in packet_filter/selection.py; its protocol:
                                               packet_filter/packet_filter.py; the rules: packet_filter/profiles.py,
                                               render/iptables/, kernel/iptables/rule_table.py
    which tables of others are in the way      kernel/neighbours/obstacles.py
    which other programs are known             kernel/neighbours/programs.py

  the node
    a message to the loop, what is due when    agent/loop.py, agent/deadlines.py
    what is looked at each second, or tenth    agent/loop.py, agent/host_look.py; packet rules: agent/packet_rules.py
    which backend, a further one               backends/selection.py, backends/backend.py; `BackendChoice`:
                                               config/settings.py; its rules: packet_filter/profiles.py; what `status`
                                               says of it when no agent runs: status/native.py
    what `cleanup` removes                     backends/removal.py
    from one backend to another                backends/hand_over.py, backends/ipvs_retirement.py
    what kube-proxy left                       kernel/kube_proxy/cleanup.py, kernel/kube_proxy/sets.py
    what must be there to start                kernel/host.py
    a kernel setting                           kernel/sysctls.py, kernel/conntrack_sysctls.py
    source ports of the node's own             kernel/reserved_ports.py
    what answers ARP for Service addresses     kernel/arp.py; how addresses are bound: kernel/addresses.py
    what happens to stale UDP flows            agent/udp_flows.py, kernel/conntrack.py

  what is shown
    a command, such as explain                 cli/__init__.py (`_COMMANDS`), then a file of its own in cli/
    what `check` looks at                      agent/preflight.py; for IPVS: backends/ipvs_checks.py
    a column of status                         status/snapshot.py (what the agent knows), status/document.py (joined
                                               with the kernel), then status/native.py; ipvsadm's own text:
                                               status/ipvsadm.py, status/ipvsadm_rules.py
    a metric, also one per Service             monitoring/metrics.py, monitoring/rule_metrics.py; its state:
                                               agent/self_report.py
    what makes the agent unhealthy             monitoring/health.py; reported by monitoring/vitals.py
    an HTTP path                               monitoring/server.py
    which finding is an Event, and when        events/event.py, events/plan.py
    how Events are written                     api/event_writer.py

Beside the package: a packet case, integration/flows/table.txt; a fault of the API double,
integration/apiserver/faults.py; how it is deployed, Containerfile, manifests/, systemd/.

Layers, held by tests/test_layers.py: cli → agent → backends → packet_filter → sources, monitoring, status, kernel →
api → pipeline → reconcile, render, policy → cluster, events → config → rows → model, findings, errors, address,
source_ranges, yaml_documents, wrong_types, printable. Everything from pipeline on, except config, is pure: no clock, no
I/O, no threads.
"""

__version__ = "0.1.0"
