"""Defines the settings of the host's kernel, of the agent's own servers, and of its process."""

from __future__ import annotations

from ipvsagent.config import kinds
from ipvsagent.config.setting import HOST, PROCESS, SERVERS, Setting, of_agent, of_kube_proxy


def _timeout(field: str, path: str, *options: str, of: str, optional: bool = False) -> Setting:
    """Return the setting of one of the kernel's timeouts, which `of` describes."""
    text = f"{of}; 0 keeps the kernel's value."
    return of_kube_proxy(field, path, kinds.duration(), *options, help=text, section=HOST, live=True, optional=optional)


HOST_SETTINGS: tuple[Setting, ...] = (
    of_agent(
        "idle_timeout",
        "idleTimeout",
        kinds.duration(),
        "--idle-timeout",
        help="How long a TCP connection to a Service may be idle: sets the timeout of IPVS, and raises that of "
        "connection tracking if it is shorter; 0 changes neither.",
        section=HOST,
    ),
    _timeout(
        "tcp_timeout",
        "ipvs.tcpTimeout",
        "--tcp-timeout",
        "--ipvs-tcp-timeout",
        of="IPVS timeout of idle TCP connections",
    ),
    _timeout(
        "tcp_fin_timeout",
        "ipvs.tcpFinTimeout",
        "--tcp-fin-timeout",
        "--ipvs-tcpfin-timeout",
        of="IPVS timeout after a FIN",
    ),
    _timeout("udp_timeout", "ipvs.udpTimeout", "--udp-timeout", "--ipvs-udp-timeout", of="IPVS timeout of UDP flows"),
    of_kube_proxy(
        "strict_arp",
        "ipvs.strictARP",
        kinds.FLAG,
        "--ipvs-strict-arp",
        help="Set arp_ignore=1 and arp_announce=2 for the whole host, as kube-proxy's strictARP does; not needed for "
        "Service addresses.",
        section=HOST,
    ),
    of_agent(
        "answer_arp",
        "answerARP",
        kinds.FLAG,
        "--answer-arp",
        help="Let the kernel answer ARP for Service addresses, as with kube-proxy's strictARP: false.",
        section=HOST,
    ),
    of_kube_proxy(
        "conntrack_max_per_core",
        "conntrack.maxPerCore",
        kinds.integer(0, 2**31 - 1),
        "--conntrack-max-per-core",
        optional=True,
        help="Limit of tracked connections per CPU core; 0 keeps the kernel's limit.",
        section=HOST,
        live=True,
    ),
    of_kube_proxy(
        "conntrack_min",
        "conntrack.min",
        kinds.integer(0, 2**31 - 1),
        "--conntrack-min",
        optional=True,
        help="Lower bound for the limit of tracked connections, whatever the number of cores.",
        section=HOST,
        live=True,
    ),
    _timeout(
        "conntrack_tcp_established",
        "conntrack.tcpEstablishedTimeout",
        "--conntrack-tcp-timeout-established",
        of="Conntrack timeout of idle TCP connections",
        optional=True,
    ),
    _timeout(
        "conntrack_tcp_close_wait",
        "conntrack.tcpCloseWaitTimeout",
        "--conntrack-tcp-timeout-close-wait",
        of="Conntrack timeout of half-closed TCP connections",
        optional=True,
    ),
    of_kube_proxy(
        "conntrack_be_liberal",
        "conntrack.tcpBeLiberal",
        kinds.FLAG,
        "--conntrack-tcp-be-liberal",
        help="Do not mark packets outside the TCP window as invalid.",
        section=HOST,
        live=True,
    ),
    _timeout(
        "conntrack_udp",
        "conntrack.udpTimeout",
        "--conntrack-udp-timeout",
        of="Conntrack timeout of unanswered UDP flows",
    ),
    _timeout(
        "conntrack_udp_stream",
        "conntrack.udpStreamTimeout",
        "--conntrack-udp-timeout-stream",
        of="Conntrack timeout of answered UDP flows",
    ),
    of_agent(
        "service_node_port_range",
        "serviceNodePortRange",
        kinds.PORT_RANGE,
        "--service-node-port-range",
        help="kube-apiserver's range of node ports. This node's own connections use no source port from it, because "
        "IPVS would handle the replies as packets to a node port.",
        section=HOST,
        live=True,
    ),
    of_kube_proxy(
        "oom_score_adj",
        "oomScoreAdj",
        kinds.integer(-1000, 1000),
        "--oom-score-adj",
        optional=True,
        help="The oom-score-adj of this process: how likely the kernel is to kill it when memory is short.",
        section=PROCESS,
        live=True,
    ),
    of_kube_proxy(
        "healthz_address",
        "healthzBindAddress",
        kinds.listener(10256, "0.0.0.0:0"),
        "--healthz-bind-address",
        help="Address of the health server; port 0 disables it.",
        section=SERVERS,
    ),
    of_kube_proxy(
        "metrics_address",
        "metricsBindAddress",
        kinds.listener(10249, "127.0.0.1:0"),
        "--metrics-bind-address",
        help="Address of the metrics server; port 0 disables it.",
        section=SERVERS,
    ),
    of_kube_proxy(
        "bind_hard_fail",
        "bindAddressHardFail",
        kinds.FLAG,
        "--bind-address-hard-fail",
        help="Exit if a server cannot listen, instead of retrying.",
        section=SERVERS,
    ),
    of_agent(
        "events",
        "events",
        kinds.FLAG,
        "--events",
        help="Write Events about problems of Services, and of this node, to the Kubernetes API.",
        section=SERVERS,
    ),
    of_kube_proxy(
        "sync_period",
        "ipvs.syncPeriod",
        kinds.duration(positive=True),
        "--ipvs-sync-period",
        help="The node is unhealthy if a change waits for more than twice this period.",
        section=SERVERS,
    ),
    of_agent(
        "log_level",
        "logLevel",
        kinds.choice("debug", "info", "warning", "error"),
        "--log-level",
        help="Lowest level of log messages on standard error.",
        section=PROCESS,
        live=True,
    ),
    of_agent(
        "state_dir",
        "stateDir",
        kinds.PATH,
        "--state-dir",
        help="Directory of the lock, the ledger and the status socket.",
        section=PROCESS,
        planned=True,
    ),
)
