"""Options that several commands share, and the types of what people write in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ipvsagent.config import Config, Network, node_name, parse_duration, parse_network
from ipvsagent.errors import ConfigError
from ipvsagent.policy.node import PRIMARY

F = TypeVar("F", bound=Callable[..., Any])


def _parsed_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], Any]:
    """A callback that parses an option's text, so that click says which option is wrong."""

    def callback(ctx: click.Context, param: click.Parameter, value: str) -> Any:
        try:
            return parse(value)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


def duration(*names: str, default: str, help: str, show_default: bool = True) -> Callable[[F], F]:
    """An option that is a Go duration; the command gets seconds."""
    return click.option(
        *names,
        metavar="DURATION",
        default=default,
        show_default=show_default,
        callback=_parsed_by(parse_duration),
        help=help,
    )


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(parse_network(word) for word in text.split(",") if word.strip())


def _node_port_addresses(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if words == (PRIMARY,):
        return words
    if PRIMARY in words:
        raise ConfigError([f'"{PRIMARY}" stands alone'])
    return tuple(str(network) for network in _networks(text))


def networks(*names: str, help: str) -> Callable[[F], F]:
    """An option that is a comma-separated list of CIDRs; the command gets a tuple of networks."""
    return click.option(*names, metavar="CIDR,...", default="", callback=_parsed_by(_networks), help=help)


PATH = click.Path(path_type=Path)

state_dir = click.option(
    "--state-dir",
    type=PATH,
    default=Config().state_dir,
    show_default=True,
    help="Where the lock, the ledger and the status socket are.",
)
interface = click.option(
    "--interface", default=Config().interface, show_default=True, help="The dummy interface that gets the addresses."
)


def node_options(command: F) -> F:
    """What decides the desired state: sources, the node's name, policy."""
    options = [
        click.option(
            "--source",
            "sources",
            type=PATH,
            multiple=True,
            required=True,
            help="A file or folder of Services, EndpointSlices and Nodes, as `kubectl get "
            "services,endpointslices,nodes -A -o yaml` prints them. May be given more than once.",
        ),
        click.option("--hostname-override", default="", help="This node's name, if it is not the host name."),
        click.option(
            "--scheduler",
            "--ipvs-scheduler",
            default="rr",
            show_default=True,
            help="IPVS scheduler of every virtual server: any that the kernel has.",
        ),
        networks(
            "--exclude-cidrs",
            "--ipvs-exclude-cidrs",
            help="Comma-separated CIDRs: a virtual server in them that the agent did not make is never touched.",
        ),
        networks(
            "--allow-external-ips",
            help="Comma-separated CIDRs from which Services may take externalIPs; none by default.",
        ),
        click.option(
            "--nodeport-addresses",
            metavar="CIDR,...|primary",
            default="",
            callback=_parsed_by(_node_port_addresses),
            help='Comma-separated CIDRs of node addresses that serve node ports, or "primary"; all by default.',
        ),
        networks(
            "--cluster-cidr",
            help="Where pods' addresses are, comma-separated for two families: their traffic to cluster IPs keeps its "
            "source, all other is masqueraded.",
        ),
        click.option(
            "--detect-local-mode",
            type=click.Choice(["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]),
            default="ClusterCIDR",
            show_default=True,
            help="How traffic of pods is told from other traffic; NodeCIDR takes the Node's pod CIDRs.",
        ),
        click.option("--pod-bridge-interface", metavar="NAME", default="", help="For mode BridgeInterface."),
        click.option("--pod-interface-name-prefix", metavar="PREFIX", default="", help="For InterfaceNamePrefix."),
        click.option("--masquerade-all", is_flag=True, help="Masquerade all traffic to cluster IPs."),
        click.option(
            "--iptables-masquerade-bit",
            type=click.IntRange(0, 31),
            default=14,
            show_default=True,
            help="The bit of packet and connection marks that is ours; no other is touched.",
        ),
        duration(
            "--drain-timeout",
            default="15m",
            help="How long a real server may keep old TCP connections after its endpoint left; 0 = not at all.",
        ),
        click.option(
            "--allow-empty",
            is_flag=True,
            help="Believe a source that has become empty, and remove everything.",
        ),
        interface,
        state_dir,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _pod_interface(options: dict[str, Any]) -> str:
    mode = options["detect_local_mode"]
    name: str = {
        "BridgeInterface": options["pod_bridge_interface"],
        "InterfaceNamePrefix": options["pod_interface_name_prefix"],
    }.get(mode, "-")
    if not name:
        option = "--pod-bridge-interface" if mode == "BridgeInterface" else "--pod-interface-name-prefix"
        raise ConfigError([f"--detect-local-mode {mode} needs {option}"])
    if mode == "InterfaceNamePrefix":
        return name.rstrip("+") + "+"
    return name if mode == "BridgeInterface" else ""


def config_of(options: dict[str, Any]) -> Config:
    """The configuration that node_options (and run's own) describe."""
    return Config(
        sources=tuple(options["sources"]),
        node_name=node_name(options["hostname_override"]),
        interface=options["interface"],
        scheduler=options["scheduler"],
        excluded=options["exclude_cidrs"],
        allowed_external=options["allow_external_ips"],
        node_port_addresses=options["nodeport_addresses"],
        cluster_cidrs=options["cluster_cidr"],
        masquerade_all=options["masquerade_all"],
        masquerade_bit=options["iptables_masquerade_bit"],
        detect_local=options["detect_local_mode"],
        pod_interface=_pod_interface(options),
        drain_timeout=options["drain_timeout"],
        tcp_timeout=options.get("tcp_timeout", 0.0),
        tcp_fin_timeout=options.get("tcp_fin_timeout", 0.0),
        udp_timeout=options.get("udp_timeout", 0.0),
        allow_empty=options["allow_empty"],
        state_dir=options["state_dir"],
    )
