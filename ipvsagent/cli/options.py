"""Options that several commands share. Those of settings are made from the table in config/schema.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from ipvsagent.config import Config, Resolved, node_name, resolve
from ipvsagent.config.schema import SETTINGS, Setting
from ipvsagent.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

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


class SettingOption(click.Option):
    """An option of a setting: its text is kept as it is, and all of them are read together by `resolved`."""

    def __init__(self, setting: Setting, *, hidden: bool) -> None:
        self.setting = setting
        kind = setting.kind
        shown = str(kind.write(setting.default)) if setting.default not in ("", (), False, 0.0) else ""
        as_flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind.flag else {}
        super().__init__(
            [*setting.options, f"set_{setting.field}"],
            metavar=kind.metavar,
            help=setting.help + (f"  [default: {shown}]" if shown else ""),
            hidden=hidden,
            multiple=kind.many,
            **as_flag,
        )

    def make_metavar(self, ctx: click.Context) -> str:
        return "" if self.setting.kind.flag else super().make_metavar(ctx)


def setting_options(*, planned: bool) -> Callable[[F], F]:
    """Options of all settings. planned: `--help` shows those alone that change what `plan` prints."""

    def add(command: F) -> F:
        made = [SettingOption(s, hidden=s.pending or (planned and not s.planned)) for s in SETTINGS if s.options]
        # As click.option does it: the command is made from these, last first.
        command.__dict__.setdefault("__click_params__", []).extend(reversed(made))
        return command

    return add


def resolved(options: dict[str, Any]) -> Resolved:
    """The settings that a command was given. Raises ConfigError with every problem."""
    given = {}
    for setting in SETTINGS:
        value = options.pop(f"set_{setting.field}", None)
        if value is not None and value != ():
            given[setting.options[0]] = value
    found = resolve(given)
    if not found.config.sources:
        raise ConfigError(["no source: --source PATH says where Services, EndpointSlices and Nodes are read from"])
    config = msgspec.structs.replace(found.config, node_name=node_name(found.config.node_name))
    return msgspec.structs.replace(found, config=config)
