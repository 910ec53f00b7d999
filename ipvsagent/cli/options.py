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


class DurationType(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class NetworkType(click.ParamType):
    name = "cidr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Network]:
        if isinstance(value, list):
            return value
        try:
            return [parse_network(part) for part in value.split(",") if part.strip()]
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class NodePortAddressesType(click.ParamType):
    name = "cidr|primary"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(word.strip() for word in value.split(",") if word.strip())
        if words == (PRIMARY,):
            return words
        if PRIMARY in words:
            self.fail(f'"{PRIMARY}" stands alone', param, ctx)
        try:
            return tuple(str(parse_network(word)) for word in words)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


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
            help="A file or folder of Services, EndpointSlices and Nodes, as `kubectl get services,endpointslices,nodes "
            "-A -o yaml` prints them. May be given more than once.",
        ),
        click.option("--hostname-override", default="", help="This node's name, if it is not the host name."),
        click.option(
            "--scheduler",
            "--ipvs-scheduler",
            default="rr",
            show_default=True,
            help="IPVS scheduler of every virtual server: any that the kernel has.",
        ),
        click.option(
            "--exclude-cidrs",
            "--ipvs-exclude-cidrs",
            type=NetworkType(),
            default="",
            help="Comma-separated CIDRs: a virtual server in them that the agent did not make is never touched.",
        ),
        click.option(
            "--allow-external-ips",
            type=NetworkType(),
            default="",
            help="Comma-separated CIDRs from which Services may take externalIPs; none by default.",
        ),
        click.option(
            "--nodeport-addresses",
            type=NodePortAddressesType(),
            default="",
            help='Comma-separated CIDRs of node addresses that serve node ports, or "primary"; all by default.',
        ),
        click.option(
            "--drain-timeout",
            type=DurationType(),
            default="15m",
            show_default=True,
            help="How long a real server may keep old TCP connections after its endpoint was taken out; 0 = not at all.",
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


def config_of(options: dict[str, Any]) -> Config:
    """The configuration that node_options (and run's own) describe."""
    return Config(
        sources=tuple(options["sources"]),
        node_name=node_name(options["hostname_override"]),
        interface=options["interface"],
        scheduler=options["scheduler"],
        excluded=tuple(options["exclude_cidrs"]),
        allowed_external=tuple(options["allow_external_ips"]),
        node_port_addresses=options["nodeport_addresses"],
        drain_timeout=options["drain_timeout"],
        tcp_timeout=options.get("tcp_timeout", 0.0),
        tcp_fin_timeout=options.get("tcp_fin_timeout", 0.0),
        udp_timeout=options.get("udp_timeout", 0.0),
        allow_empty=options["allow_empty"],
        state_dir=options["state_dir"],
    )
