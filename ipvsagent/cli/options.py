"""Defines options that several commands share. The options of settings are generated from the tables in config/."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from msgspec import Struct

from ipvsagent.config import Config, Remark, for_this_node, resolve
from ipvsagent.config.kinds import Kind
from ipvsagent.config.resolve import ENTRIES
from ipvsagent.config.schema import SECTIONS, Setting
from ipvsagent.errors import ConfigError
from ipvsagent.sources.configuration import ConfigurationFiles

_TYPED = "ipvsagent.typed"
F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path, readable=False)  # the code that reads it reports what is wrong

config_files = click.option(
    "--config",
    "files",
    type=PATH,
    multiple=True,
    help="A configuration file of `run`, read for its interface and state directory.",
)
state_dir = click.option(
    "--state-dir",
    type=PATH,
    help=f"The directory of the lock, the ledger and the status socket.  [default: {Config().state_dir}]",
)
interface = click.option(
    "--interface", metavar="NAME", help=f"The dummy interface that gets the addresses.  [default: {Config().interface}]"
)


class Given(Struct, frozen=True):
    """Holds a command's settings and what they were read from."""

    written: Config
    """The settings as they were given."""
    warnings: tuple[Remark, ...]
    options: dict[str, str | tuple[str, ...]]
    files: dict[str, bytes]
    """The contents of configuration files by name."""

    @property
    def config(self) -> Config:
        """Return the settings with this node's name filled in."""
        return for_this_node(self.written)


class TextOption(click.Option):
    """Keeps the text of an option as it is: all are parsed together, so that all problems are reported at once."""

    def __init__(self, names: tuple[str, ...], kind: Kind, *, help: str = "", section: str = "", hidden: bool) -> None:
        self.section = section
        self._kind = kind
        as_flag: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind.flag else {}
        super().__init__(
            [*names, _parameter(names)],
            metavar=kind.metavar,
            help=help,
            hidden=hidden,
            multiple=kind.many,
            **as_flag,
        )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        kind = "file" if self._kind.metavar in ("PATH", "FILE") else "plain"
        words = self._kind.words or ((incomplete,) if kind == "file" else ())
        return [CompletionItem(word, type=kind) for word in words if word.startswith(incomplete)]

    def make_metavar(self, ctx: click.Context) -> str:
        return "" if self._kind.flag else super().make_metavar(ctx)


class SettingsCommand(click.Command):
    """Shows the options of settings by section in the help of a command, after its own options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = [word.partition("=")[0] for word in args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{name: [] for name in SECTIONS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                sections[getattr(parameter, "section", "Options")].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def setting_options(*, planned: bool) -> Callable[[F], F]:
    """Return a decorator that adds `--config` and an option for every setting.

    planned: `--help` shows only those that change what `plan` prints.
    """

    def add(command: F) -> F:
        # This is what click.option does: a command is built from these, last first.
        command.__dict__.setdefault("__click_params__", []).extend(reversed(list(_options(planned))))
        return click.option(
            "--config",
            "files",
            type=PATH,
            multiple=True,
            help="A file with kube-proxy's KubeProxyConfiguration, ipvsagent's IPVSAgentConfiguration, or both. May be "
            "given twice. `ipvsagent check-config` reports what is wrong with a file.",
        )(command)

    return add


def _options(planned: bool) -> Iterable[click.Option]:
    for entry in ENTRIES:
        if not entry.options:
            continue
        if not isinstance(entry, Setting):
            yield TextOption(entry.options, entry.kind, hidden=True)
            continue
        hidden = entry.pending or (planned and not entry.planned)
        default = _default_text(entry)
        text = entry.help + (f"  [default: {default}]" if default else "")
        yield TextOption(entry.options, entry.kind, help=text, section=entry.section, hidden=hidden)


def _default_text(setting: Setting) -> str:
    return str(setting.kind.write(setting.default)) if setting.default not in ("", (), False, 0.0) else ""


def _parameter(names: tuple[str, ...]) -> str:
    return "text_" + names[0].strip("-").replace("-", "_")


def given(options: dict[str, Any]) -> Given:
    """Remove the settings from a command's options and resolve them. Raises ConfigError with every problem."""
    texts = {}
    typed = click.get_current_context().meta.get(_TYPED, ())
    for entry in ENTRIES:
        text = options.pop(_parameter(entry.options), None) if entry.options else None
        if text not in (None, ()):
            # The last one wins, as in click.
            texts[next((word for word in reversed(typed) if word in entry.options), entry.options[0])] = text
    files = read_files(options.pop("files"))
    resolved = resolve(texts, files)
    config = resolved.required()
    return Given(config, resolved.warnings, texts, files)


def found_by(files: Iterable[Path], interface: str | None, state_dir: Path | None) -> Config:
    """Return the interface and the state directory of an agent: as given, otherwise as in its files, otherwise the
    defaults. Raises ConfigError."""
    config = resolve({}, read_files(files)).required()
    return Config(interface=interface or config.interface, state_dir=state_dir or config.state_dir)


def read_files(paths: Iterable[Path]) -> dict[str, bytes]:
    """Return the contents of files by name; `-` is standard input. Raises ConfigError."""
    contents, problems = {}, []
    for path in paths:
        try:
            contents[str(path)] = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
    if problems:
        raise ConfigError(problems)
    return contents


def followed(settings: Given) -> ConfigurationFiles | None:
    """Return the configuration files that an agent follows; None if there are none."""
    if not settings.files or "-" in settings.files:
        return None
    return ConfigurationFiles(map(Path, settings.files), settings.options, settings.files)
