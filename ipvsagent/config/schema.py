"""The table of settings: what each is called in `Config`, in a document, and on the command line.

Two documents. kube-proxy's own (KubeProxyConfiguration) has the settings that kube-proxy knows, under its names;
ours (IPVSAgentConfiguration) has the rest. A setting with no document is an option only.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ipvsagent.config import kinds
from ipvsagent.config.kinds import Kind
from ipvsagent.config.settings import Config


class Document(Enum):
    """A kind of document, as `apiVersion` and `kind` name it."""

    KUBE_PROXY = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
    AGENT = ("ipvsagent.io/v1alpha1", "IPVSAgentConfiguration")

    @property
    def api_version(self) -> str:
        return self.value[0]

    @property
    def kind(self) -> str:
        return self.value[1]


class Setting(Struct, frozen=True, kw_only=True):
    """field: of Config. path: inside the document, `ipvs.syncPeriod`. options: the first is the one that is shown.

    optional: a document's null and zero differ; elsewhere kube-proxy takes "", 0 and 0s for "not set".
    planned: it changes what `plan` prints, so that `plan` shows it, too.
    pending: nothing uses it yet; it is accepted, hidden, and said to be without effect. Who makes it work removes this.
    live: a running agent takes a new value up; others need a restart.
    """

    field: str
    kind: Kind
    options: tuple[str, ...] = ()
    help: str = ""
    section: str = ""
    document: Document | None = None
    path: str = ""
    optional: bool = False
    planned: bool = False
    pending: bool = False
    live: bool = False

    @property
    def default(self) -> Any:
        return getattr(_DEFAULTS, self.field)


_DEFAULTS = Config()
_READ, _SERVED, _RULES = "What is read", "What is served", "Packet rules"
_HOST, _SERVERS, _PROCESS = "The host", "Servers", "The process"
SECTIONS = (_READ, _SERVED, _RULES, _HOST, _SERVERS, _PROCESS)
"""Of `--help`, in its order."""


def _kube_proxy(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.KUBE_PROXY, **more)


def _agent(field: str, path: str, kind: Kind, *options: str, **more: Any) -> Setting:
    return Setting(field=field, path=path, kind=kind, options=options, document=Document.AGENT, **more)


SETTINGS: tuple[Setting, ...] = (
    _agent(
        "sources",
        "sources",
        kinds.PATHS,
        "--source",
        help="A file or folder of Services, EndpointSlices and Nodes, as `kubectl get "
        "services,endpointslices,nodes -A -o yaml` prints them. May be given more than once.",
        section=_READ,
        planned=True,
    ),
    _kube_proxy(
        "kubeconfig",
        "clientConnection.kubeconfig",
        kinds.TEXT,
        "--kubeconfig",
        help="How to reach the Kubernetes API, if there is no --source; by default as a pod does, or as kubectl.",
        section=_READ,
        planned=True,
    ),
    Setting(
        field="master",
        kind=kinds.TEXT,
        options=("--master",),
        help="URL of the API server, instead of what the kubeconfig or the pod says.",
        section=_READ,
        planned=True,
    ),
    _agent(
        "allow_api_by_cluster_ip",
        "allowAPIByClusterIP",
        kinds.FLAG,
        "--allow-api-by-cluster-ip",
        help="Start even if the API server is reached at a Service address that this agent itself makes work.",
        section=_READ,
        planned=True,
    ),
    _kube_proxy(
        "node_name",
        "hostnameOverride",
        kinds.NODE_NAME,
        "--hostname-override",
        help="This node's name, if it is not the host name.",
        section=_READ,
        planned=True,
    ),
    _agent(
        "allow_empty",
        "allowEmpty",
        kinds.FLAG,
        "--allow-empty",
        help="Believe a source that has become empty, and remove everything.",
        section=_READ,
        planned=True,
    ),
    _kube_proxy(
        "backend",
        "mode",
        kinds.MODE,
        "--proxy-mode",
        "--backend",
        help="ipvs fails where the kernel has no ip_vs; auto takes iptables there.",
        section=_SERVED,
    ),
    _kube_proxy(
        "scheduler",
        "ipvs.scheduler",
        kinds.NAME,
        "--scheduler",
        "--ipvs-scheduler",
        help="IPVS scheduler of every virtual server: any that the kernel has.",
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "excluded",
        "ipvs.excludeCIDRs",
        kinds.NETWORKS,
        "--exclude-cidrs",
        "--ipvs-exclude-cidrs",
        help="Virtual servers in these CIDRs that the agent did not make are never touched.",
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _agent(
        "allowed_external",
        "allowExternalIPs",
        kinds.NETWORKS,
        "--allow-external-ips",
        help="CIDRs from which Services may take externalIPs; none by default.",
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "node_port_addresses",
        "nodePortAddresses",
        kinds.NODE_PORTS,
        "--nodeport-addresses",
        help='CIDRs of node addresses that serve node ports, or "primary"; all by default.',
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "bind_address",
        "bindAddress",
        kinds.ADDRESS,
        "--bind-address",
        help="This node's first address, instead of what its Node object says. No socket is bound to it.",
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _agent(
        "drain_timeout",
        "drainTimeout",
        kinds.duration(),
        "--drain-timeout",
        help="How long a real server may keep old TCP connections after its endpoint left; 0 = not at all.",
        section=_SERVED,
        planned=True,
        live=True,
    ),
    _agent(
        "interface",
        "interface",
        kinds.interface(),
        "--interface",
        help="The dummy interface that gets the addresses.",
        section=_SERVED,
        planned=True,
    ),
    _agent(
        "service_cidrs",
        "serviceCIDRs",
        kinds.NETWORKS,
        "--service-cidrs",
        help="Ranges of cluster IPs, for --route-mode.",
        section=_SERVED,
        planned=True,
        pending=True,
    ),
    _agent(
        "route_mode",
        "routeMode",
        kinds.FLAG,
        "--route-mode",
        help="Deliver the ranges of --service-cidrs here by a route, instead of binding every cluster IP.",
        section=_SERVED,
        planned=True,
        pending=True,
    ),
    _agent(
        "local_mark_mask",
        "localMarkMask",
        kinds.MASK,
        "--local-mark-mask",
        help="Bits of packet marks that lead this node's own clients to every endpoint of a Service with "
        "externalTrafficPolicy Local; 0 = none. Others' marks must be outside.",
        section=_RULES,
        planned=True,
    ),
    _kube_proxy(
        "cluster_cidrs",
        "clusterCIDR",
        kinds.CLUSTER_CIDRS,
        "--cluster-cidr",
        help="Where pods' addresses are, one CIDR or one of each family: their traffic to cluster IPs keeps its "
        "source, all other is masqueraded.",
        section=_RULES,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "detect_local",
        "detectLocalMode",
        kinds.choice("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"),
        "--detect-local-mode",
        help="How traffic of pods is told from other traffic; NodeCIDR takes the Node's pod CIDRs.",
        section=_RULES,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "pod_bridge",
        "detectLocal.bridgeInterface",
        kinds.interface(optional=True),
        "--pod-bridge-interface",
        help="For mode BridgeInterface.",
        section=_RULES,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "pod_interface_prefix",
        "detectLocal.interfaceNamePrefix",
        kinds.interface(optional=True),
        "--pod-interface-name-prefix",
        help="For mode InterfaceNamePrefix.",
        section=_RULES,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "masquerade_all",
        "iptables.masqueradeAll",
        kinds.FLAG,
        "--masquerade-all",
        help="Masquerade all traffic to cluster IPs.",
        section=_RULES,
        planned=True,
        live=True,
    ),
    _kube_proxy(
        "masquerade_bit",
        "iptables.masqueradeBit",
        kinds.integer(0, 31),
        "--iptables-masquerade-bit",
        optional=True,
        help="The bit of packet and connection marks that is ours; no other is touched.",
        section=_RULES,
        planned=True,
    ),
    _kube_proxy(
        "localhost_node_ports",
        "iptables.localhostNodePorts",
        kinds.FLAG,
        "--iptables-localhost-nodeports",
        optional=True,
        help="Node ports on 127.0.0.1, with the iptables backend.",
        section=_RULES,
    ),
    _agent(
        "idle_timeout",
        "idleTimeout",
        kinds.duration(),
        "--idle-timeout",
        help="How long a TCP connection to a Service may be idle: sets IPVS' timeout, and raises connection tracking's "
        "where that is shorter; 0 = what they are.",
        section=_HOST,
    ),
    _kube_proxy(
        "tcp_timeout",
        "ipvs.tcpTimeout",
        kinds.duration(),
        "--tcp-timeout",
        "--ipvs-tcp-timeout",
        help="IPVS timeout of idle TCP connections; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "tcp_fin_timeout",
        "ipvs.tcpFinTimeout",
        kinds.duration(),
        "--tcp-fin-timeout",
        "--ipvs-tcpfin-timeout",
        help="IPVS timeout after a FIN; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "udp_timeout",
        "ipvs.udpTimeout",
        kinds.duration(),
        "--udp-timeout",
        "--ipvs-udp-timeout",
        help="IPVS timeout of UDP flows; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "strict_arp",
        "ipvs.strictARP",
        kinds.FLAG,
        "--ipvs-strict-arp",
        help="Set arp_ignore=1 and arp_announce=2 for the whole host, as kube-proxy's strictARP; for Service addresses "
        "alone it is not needed.",
        section=_HOST,
    ),
    _agent(
        "answer_arp",
        "answerARP",
        kinds.FLAG,
        "--answer-arp",
        help="Let the kernel answer ARP for Service addresses, as with kube-proxy's strictARP: false.",
        section=_HOST,
    ),
    _kube_proxy(
        "conntrack_max_per_core",
        "conntrack.maxPerCore",
        kinds.integer(0, 2**31 - 1),
        "--conntrack-max-per-core",
        optional=True,
        help="Tracked connections per CPU core; 0 leaves the kernel's limit alone.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_min",
        "conntrack.min",
        kinds.integer(0, 2**31 - 1),
        "--conntrack-min",
        optional=True,
        help="Tracked connections at least, however few the cores.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_tcp_established",
        "conntrack.tcpEstablishedTimeout",
        kinds.duration(),
        "--conntrack-tcp-timeout-established",
        optional=True,
        help="Conntrack timeout of idle TCP connections; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_tcp_close_wait",
        "conntrack.tcpCloseWaitTimeout",
        kinds.duration(),
        "--conntrack-tcp-timeout-close-wait",
        optional=True,
        help="Conntrack timeout of half-closed TCP connections; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_be_liberal",
        "conntrack.tcpBeLiberal",
        kinds.FLAG,
        "--conntrack-tcp-be-liberal",
        help="Packets out of the TCP window are tracked, too.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_udp",
        "conntrack.udpTimeout",
        kinds.duration(),
        "--conntrack-udp-timeout",
        help="Conntrack timeout of unanswered UDP flows; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "conntrack_udp_stream",
        "conntrack.udpStreamTimeout",
        kinds.duration(),
        "--conntrack-udp-timeout-stream",
        help="Conntrack timeout of answered UDP flows; 0 = the kernel's.",
        section=_HOST,
        live=True,
    ),
    _kube_proxy(
        "oom_score_adj",
        "oomScoreAdj",
        kinds.integer(-1000, 1000),
        "--oom-score-adj",
        optional=True,
        help="How readily the kernel ends this process when memory is short.",
        section=_PROCESS,
        live=True,
    ),
    _kube_proxy(
        "healthz_address",
        "healthzBindAddress",
        kinds.listener(10256, "0.0.0.0:0"),
        "--healthz-bind-address",
        help="Where the health server listens; port 0 = nowhere.",
        section=_SERVERS,
    ),
    _kube_proxy(
        "metrics_address",
        "metricsBindAddress",
        kinds.listener(10249, "127.0.0.1:0"),
        "--metrics-bind-address",
        help="Where the metrics server listens; port 0 = nowhere.",
        section=_SERVERS,
    ),
    _kube_proxy(
        "bind_hard_fail",
        "bindAddressHardFail",
        kinds.FLAG,
        "--bind-address-hard-fail",
        help="End when a server cannot listen, instead of trying again.",
        section=_SERVERS,
    ),
    _kube_proxy(
        "sync_period",
        "ipvs.syncPeriod",
        kinds.duration(positive=True),
        "--ipvs-sync-period",
        help="A change that waits for twice as long makes the node unhealthy.",
        section=_SERVERS,
    ),
    _agent(
        "log_level",
        "logLevel",
        kinds.choice("debug", "info", "warning", "error"),
        "--log-level",
        help="What is written to standard error.",
        section=_PROCESS,
        live=True,
    ),
    _agent(
        "state_dir",
        "stateDir",
        kinds.PATH,
        "--state-dir",
        help="Where the lock, the ledger and the status socket are.",
        section=_PROCESS,
        planned=True,
    ),
)
