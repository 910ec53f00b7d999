"""Implements the command `ipvsagent run`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ipvsagent.agent.agent import Agent
from ipvsagent.agent.once import apply_once
from ipvsagent.backends.assembly import lock_path
from ipvsagent.backends.selection import open_backend
from ipvsagent.cli.options import PATH, SettingsCommand, followed, given, setting_options
from ipvsagent.config import Config
from ipvsagent.config.write import written
from ipvsagent.errors import IpvsAgentError, StartError
from ipvsagent.kernel import host, sysctls
from ipvsagent.sources.source import source_of

log = logging.getLogger("ipvsagent")
TERMINATED = 128 + signal.SIGTERM
_COLOUR = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def _no_cleanup(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("there is no option --cleanup; use the command `ipvsagent cleanup`", ctx)


@click.command(name="run", cls=SettingsCommand)
@setting_options(planned=False)
@click.option("--once", is_flag=True, help="Read the source once, apply it, and exit.")
@click.option(
    "--init-only",
    is_flag=True,
    help="Load kernel modules, set sysctls, and exit; after that, `run` needs CAP_NET_ADMIN only.",
)
@click.option(
    "--write-config-to",
    "write_to",
    type=PATH,
    help="Write the settings to a file for --config, and exit; - is standard output.",
)
@click.option("--cleanup", is_flag=True, hidden=True, callback=_no_cleanup, expose_value=False)
def command(once: bool, init_only: bool, write_to: Path | None, **options: Any) -> int:
    """Serve the Services of a source on this node, and follow changes.

    Programs IPVS and binds the Services' addresses to a dummy interface. On SIGTERM it exits and leaves everything in
    place, so that traffic goes on; `ipvsagent cleanup` removes it.

    \b
    ipvsagent run --kubeconfig /etc/kubernetes/ipvsagent.conf
    kubectl get services,endpointslices,nodes -A -o yaml > cluster.yaml
    ipvsagent run --source cluster.yaml
    """
    settings = given(options)
    config = settings.config
    _log_to_stderr(config.log_level)
    for warning in settings.warnings:
        log.warning("%s", warning)
    if write_to:
        try:
            with click.open_file(str(write_to), "w", atomic=str(write_to) != "-") as file:
                file.write(written(settings.written))
        except OSError as error:
            raise IpvsAgentError(f"--write-config-to {write_to}: cannot be written: {error.strerror}") from None
        return 0
    _end_on_sigterm(TERMINATED if once or init_only else 0)
    host.require_privilege()
    if init_only:
        host.make_state_dir(config.state_dir)
        backend = open_backend(config, load_modules=True)
        backend.prepare_host()
        for finding in (*backend.findings, *backend.unset_limits):
            log.warning("%s", finding)
        return 0
    source = source_of(config)
    lock = _lock(config)
    backend = open_backend(config, load_modules=True)
    _require_alone()
    backend.prepare()
    try:
        if once:
            return 0 if apply_once(config, backend, source) else 1
        Agent(config, backend, source, followed(settings)).run()
        return 0
    finally:
        lock.release()


def _end_on_sigterm(status: int) -> None:
    """Exit on SIGTERM at once, until the agent installs its own handler. As process 1 of a container, a process without
    a handler ignores the signal."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(status)

    signal.signal(signal.SIGTERM, end)


def _lock(config: Config) -> host.AgentLock:
    """Acquire the lock of which there is one for each network namespace, waiting for another agent to end: in a rolling
    update, two agents overlap. The node must be read after that only, as the first agent may still change it.

    Raises StartError without waiting if this agent could not start afterwards. In the host's network the first agent
    answers the probes of both while this one waits, so failing is the only way to stop a rollout of this version.
    """
    lock = host.AgentLock(lock_path(config))
    if lock.try_acquire():
        return lock
    _require_start(config)
    log.info("another agent (pid %s) holds this node; waiting for it to end", lock.holder() or "unknown")
    while not lock.try_acquire():
        time.sleep(0.2)
    return lock


def _require_start(config: Config) -> None:
    """Check as much of a start as reading alone can. Raises StartError."""
    backend = open_backend(config, load_modules=True)
    _require_alone()
    sysctls.require(backend.settings())
    backend.packet_filter().close()


def _require_alone() -> None:
    pid = host.kube_proxy_here()
    if pid:
        raise StartError(
            f"kube-proxy (pid {pid}) is running on this node, and two proxies would undo each other's work",
            host.STOP_KUBE_PROXY,
        )


class _Formatter(logging.Formatter):
    """Formats a line as `2026-01-31T12:00:00Z warning  text`, in colour on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = f"{when} {level:<7} {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        colour = _COLOUR.get(level) if sys.stderr.isatty() and "NO_COLOR" not in os.environ else None
        return f"{colour}{text}\x1b[0m" if colour else text


def _log_to_stderr(level: str) -> None:
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Formatter())
    log.addHandler(stream)
    log.setLevel(level.upper())
