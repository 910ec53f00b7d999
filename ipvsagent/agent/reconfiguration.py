"""A new configuration for an agent that runs: what is safe is taken up at once, the rest waits for a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.config.schema import SETTINGS
from ipvsagent.config.takeover import taken_up
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.pipeline import Origins, Pipeline
from ipvsagent.sources.configuration import NewConfig

log = logging.getLogger("ipvsagent")

ORIGIN = "configuration"


class Reconfiguration:
    """Knows the configuration in force. configure_rules: hands one to whoever keeps the packet rules."""

    def __init__(
        self, config: Config, backend: Backend, pipeline: Pipeline, configure_rules: Callable[[Config], None]
    ) -> None:
        self._config = config
        self._backend = backend
        self._pipeline = pipeline
        self._configure_rules = configure_rules
        self._wanted: NewConfig | None = None
        self._incomplete = False
        self._refused = False  # the node did not get all of the configuration in force

    def apply(self, new: NewConfig, now: float) -> Origins:
        """What it changes in the kernel is written by the next round."""
        for warning in new.warnings:
            log.warning("%s", warning)
        self._wanted = new
        return self._take_up(new, now)

    def retry(self, now: float) -> Origins:
        """Whether what could not be taken up can be now: a module may have come."""
        return self._take_up(self._wanted, now) if self._wanted and self._incomplete else []

    def _take_up(self, wanted: NewConfig, now: float) -> Origins:
        config, waiting = taken_up(self._config, wanted.config, wanted.origins)
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
            _say(self._config, config)
            origins = self._pipeline.reconfigure(self._backend.policy(config), config.drain_timeout, now)
            self._configure_rules(config)
            log.setLevel(config.log_level.upper())
            self._config = config
            self._refused = True
        if self._refused:
            try:
                if self._backend.reconfigure(config):
                    self._pipeline.mark_all_suspect(now)
                self._refused = False
            except KernelError as error:
                reason = f"the kernel refuses them: {error}; tried again every 10 s"
                findings.append(Finding(FindingKind.CONFIGURATION, "IPVS timeouts", reason, severity=Severity.ERROR))
                self._incomplete = True
        return [(ORIGIN, tuple(findings)), ("backend", self._backend.findings), *origins]


def _say(old: Config, new: Config) -> None:
    for setting in SETTINGS:
        before, after = getattr(old, setting.field), getattr(new, setting.field)
        if before != after:
            name = setting.path or setting.options[0]
            log.info(
                "configuration: %s is now %r, and was %r", name, setting.kind.write(after), setting.kind.write(before)
            )
