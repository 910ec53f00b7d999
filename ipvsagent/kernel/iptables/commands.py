"""Runs the iptables programs, and finds out which variant of them the node uses.

Linux has two kinds of packet rules, legacy (x_tables) and nft (nf_tables), each with programs of its own, which do not
show rules of the other kind. Ours belong where kubelet and the CNI plugin put theirs; the variant is chosen as in
kubernetes-sigs/iptables-wrappers, which Kubernetes' own images use.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from ipvsagent.address import Family
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.iptables.generation import Generation, LegacyGeneration, NftGeneration
from ipvsagent.printable import printable

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_HINT = re.compile(r"^:(KUBE-IPTABLES-HINT|KUBE-KUBELET-CANARY) ", re.MULTILINE)
_ERROR_LINE = re.compile(r"\bline:? (\d+)")
_LOCKED = 4  # exit status: another program holds /run/xtables.lock
_TIMEOUT = 60.0
COMMAND = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Mode(StrEnum):
    NFT = "nft"
    LEGACY = "legacy"


SavedRules = Mapping[tuple[Mode, Family], str]
"""The output of iptables-save by variant and family, as far as these work here."""


class Variant(Struct, frozen=True):
    """Names the kind of rules that is used, and why."""

    mode: Mode
    reason: str


class RulesRefused(KernelError):
    """Reports that iptables refused a command."""

    line: str
    """The error message."""
    rule: str
    """The line of our text that the message names, or ""."""
    number: int
    """The number of that line, from 1, or 0."""

    def __init__(self, line: str, rule: str = "", code: int = errno.EINVAL, number: int = 0) -> None:
        super().__init__(code, line)
        self.line = line
        self.rule = rule
        self.number = number
        self.args = (f"{line}{f' (the rule is: {rule})' if rule else ''}",)


class RulesLocked(RulesRefused):
    """Reports that another program held the lock of the packet rules for too long."""


class IptablesCommands:
    """Runs the programs of one variant and family, in the network namespace of the caller."""

    def __init__(self, family: Family, mode: Mode, lock_seconds: float = 10.0) -> None:
        """lock_seconds: how long to wait for other programs. Raises StartError if a program is not installed."""
        self.family = family
        self.mode = mode
        self._lock_seconds = lock_seconds
        self._save = program(family, mode, "-save")
        self._restore = program(family, mode, "-restore")
        self._generation: Generation | None = None

    def close(self) -> None:
        if self._generation is not None:
            self._generation.close()
            self._generation = None

    def generation(self, tables: Sequence[str]) -> Hashable:
        """Return a value that stays equal while these tables do not change, as far as the kernel shows. Raises
        KernelError."""
        if self._generation is None:
            try:
                self._generation = NftGeneration() if self.mode is Mode.NFT else LegacyGeneration(self.family)
            except OSError as error:
                raise KernelError.of(error.errno or errno.EIO, "no access to the packet rules") from error
        return self._generation.read(tables)

    def follows(self, before: Hashable, now: Hashable, commits: int) -> bool:
        """Return whether a write of `commits` tables alone can have led from one generation to the other."""
        if self.mode is Mode.LEGACY:
            return True  # legacy has no counter; a concurrent write of others is found after their next one
        assert isinstance(before, bytes) and isinstance(now, bytes)
        return int.from_bytes(now, "big") - int.from_bytes(before, "big") <= commits

    def save(self) -> str:
        """Return the output of iptables-save. Raises RulesRefused."""
        return self._run([self._save], "")

    def restore(self, text: str) -> None:
        """Write rules, atomically by table; rules that `text` does not name stay. Raises RulesRefused, RulesLocked.

        Counters stay as well, except that every write resets those of policies in legacy, which also writes those of
        rules in a second step: if the process is killed between the two, they are lost.
        """
        argv = [self._restore, "--noflush", "--wait", "1"]
        retrying = Retrying(
            retry=retry_if_exception_type(RulesLocked),
            stop=stop_after_delay(self._lock_seconds),
            wait=wait_random(0.02, 0.2),
            reraise=True,
        )
        retrying(lambda: self._run(argv, text))

    def _run(self, argv: list[str], text: str) -> str:
        try:
            # Bytes, because comments of other programs need not be UTF-8, and text mode replaces \r by a newline.
            done = subprocess.run(
                argv,
                input=text.encode(errors="surrogateescape"),
                capture_output=True,
                timeout=_TIMEOUT,
                env={"PATH": _PATH, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise RulesRefused(f"{argv[0]} did not finish within {_TIMEOUT:.0f} s", code=errno.ETIMEDOUT) from error
        except OSError as error:
            raise RulesRefused(f"{argv[0]} cannot be run: {error}", code=error.errno or errno.EIO) from error
        if done.returncode == 0:
            return done.stdout.decode(errors="surrogateescape")
        raise _refusal(os.path.basename(argv[0]), done.returncode, done.stderr.decode(errors="replace"), text)


def _refusal(name: str, status: int, stderr: str, text: str) -> RulesRefused:
    messages = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("Try `")]
    line = "; ".join(messages).replace(":; ", ": ") or f"exit status {status}"
    if name not in line:
        line = f"{name}: {line}"
    if status == _LOCKED and "holding the xtables lock" in stderr:
        return RulesLocked(line, code=errno.EAGAIN)
    number = _ERROR_LINE.search(stderr)
    lines = text.split("\n")
    rule = lines[int(number[1]) - 1] if number and 0 < int(number[1]) <= len(lines) else ""
    if not number or rule in ("", "COMMIT"):
        return RulesRefused(line)
    return RulesRefused(line, printable(rule), number=int(number[1]))


def program(family: Family, mode: Mode, suffix: str) -> str:
    """Return the path of a program of one variant. Raises StartError if it is not installed."""
    command = COMMAND[family]
    found = shutil.which(f"{command}-{mode}{suffix}", path=_PATH)
    plain = shutil.which(f"{command}{suffix}", path=_PATH)
    if found is None and plain is not None and _mode_of(plain.removesuffix(suffix)) is mode:
        found = plain
    if found is None:
        raise StartError(f"{command}-{mode}{suffix} is not installed", "Install the Debian package iptables")
    return found


def _mode_of(command: str) -> Mode:
    """Return the variant of programs without a suffix. Before 1.8 there was only legacy, and --version did not name
    it."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=_TIMEOUT)
    return Mode.NFT if "nf_tables" in done.stdout else Mode.LEGACY


def find_variant(saved: SavedRules | None = None) -> Variant:
    """Return the variant that this node uses for both families. saved: what `saved_rules` returned a moment ago, to
    avoid reading twice. Raises StartError if iptables is not installed or does not work here."""
    texts = working_modes(saved)
    for mode, text in texts.items():
        if hint := _HINT.search(text):
            return Variant(mode, f"kubelet's chain {hint[1]} exists")
    if not texts:
        tool = program(Family.IPV4, Mode.NFT, "-save")  # raises if it is not installed
        raise StartError(
            f"{tool} does not work here", "Load the module with `modprobe nf_tables` or `modprobe ip_tables`"
        )
    counts = {mode: len(re.findall("^-", text, re.MULTILINE)) for mode, text in texts.items()}
    nft, legacy = counts.get(Mode.NFT), counts.get(Mode.LEGACY)
    if nft is None:
        return Variant(Mode.LEGACY, "iptables-nft does not work here")
    if legacy is None:
        return Variant(Mode.NFT, "iptables-legacy does not work here")
    if legacy > nft:
        return Variant(Mode.LEGACY, f"there are {legacy} legacy rules, and {nft} of nft")
    if not nft and not _can_write(Mode.NFT):
        return Variant(Mode.LEGACY, "this kernel has no nf_tables for iptables-nft to write")
    return Variant(Mode.NFT, f"there are {nft} rules of nft, and {legacy} legacy ones")


def _can_write(mode: Mode) -> bool:
    """Return whether rules can be written; iptables-nft-save succeeds even where nf_tables lacks the IP families."""
    scratch = "*mangle\n:IPVSAGENT-TRY - [0:0]\nCOMMIT\n*mangle\n-X IPVSAGENT-TRY\nCOMMIT\n"
    try:
        IptablesCommands(Family.IPV4, mode).restore(scratch)
    except RulesLocked:
        raise
    except RulesRefused:
        return False
    return True


def working_modes(saved: SavedRules | None = None) -> dict[Mode, str]:
    """Return the variants that work on this kernel and installation, with their rules in both families. saved: what
    `saved_rules` returned a moment ago, to avoid reading twice."""
    texts: dict[Mode, str] = {}
    for (mode, _), text in (saved_rules() if saved is None else saved).items():
        texts[mode] = texts.get(mode, "") + text
    return texts


def saved_rules() -> SavedRules:
    """Run iptables-save once for each variant and family."""
    texts = {(mode, family): saved_rules_of(mode, family) for mode in Mode for family in Family}
    return {which: text for which, text in texts.items() if text is not None}


def saved_rules_of(mode: Mode, family: Family) -> str | None:
    """Return the output of iptables-save for one variant and family; None if that does not work here."""
    try:
        return IptablesCommands(family, mode).save()
    except (StartError, RulesRefused):
        return None
