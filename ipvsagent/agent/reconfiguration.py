"""Applies a changed configuration to a running agent: what is safe at once, the rest after a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.config.reload import reloaded
from ipvsagent.config.schema import SETTINGS
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.pipeline import Origins, Pipeline
from ipvsagent.sources.configuration import NewConfig

log = logging.getLogger("ipvsagent")

ORIGIN = "configuration"


class Reconfiguration:
    """Knows the configuration in force, and what of a newer one could not be applied yet."""

    def __init__(
        self, config: Config, backend: Backend, pipeline: Pipeline, configure: Callable[[Config], None]
    ) -> None:
        """configure: passes a configuration to the parts that other threads run."""
        self._config = config
        self._backend = backend
        self._pipeline = pipeline
        self._configure = configure
        self._newest: NewConfig | None = None
        self._incomplete = False
        self._refused = False  # the kernel refused a part of the configuration in force

    def apply(self, new: NewConfig, now: float) -> Origins:
        """Apply a configuration. The next round writes what it changes in the kernel."""
        for warning in new.warnings:
            log.warning("%s", warning)
        self._newest = new
        return self._apply(new, now)

    def retry(self, now: float) -> Origins:
        """Apply what could not be applied before, as a module may have been loaded meanwhile."""
        return self._apply(self._newest, now) if self._newest and self._incomplete else []

    def _apply(self, newest: NewConfig, now: float) -> Origins:
        config, waiting = reloaded(self._config, newest.config, newest.origins)
        findings = list(waiting)
        self._incomplete = False
        if config.scheduler != self._config.scheduler and not self._backend.scheduler_works(config.scheduler):
            reason = (
                f"the kernel does not have it; {self._config.scheduler} stays until `modprobe ip_vs_{config.scheduler}`"
            )
            findings.append(
                Finding(FindingKind.CONFIGURATION, f"scheduler {config.scheduler}", reason, severity=Severity.ERROR)
            )
            config = msgspec.structs.replace(config, scheduler=self._config.scheduler)
            self._incomplete = True
        origins: Origins = []
        if config != self._config:
            _log_changes(self._config, config)
            origins = self._pipeline.reconfigure(self._backend.policy(config), config.drain_timeout, now)
            self._configure(config)
            log.setLevel(config.log_level.upper())
            self._config = config
            self._refused = True
        if self._refused:
            try:
                if self._backend.reconfigure(config):
                    self._pipeline.mark_all_suspect(now)
                self._refused = False
            except KernelError as error:
                reason = f"the kernel refused them: {error}; tried again every 10 s"
                findings.append(Finding(FindingKind.CONFIGURATION, "IPVS timeouts", reason, severity=Severity.ERROR))
                self._incomplete = True
        return [(ORIGIN, tuple(findings)), ("backend", self._backend.findings), *origins]


def _log_changes(old: Config, new: Config) -> None:
    for setting in SETTINGS:
        before, after = getattr(old, setting.field), getattr(new, setting.field)
        if before != after:
            name = setting.path or setting.options[0]
            log.info(
                "configuration: %s changed from %r to %r", name, setting.kind.write(before), setting.kind.write(after)
            )
