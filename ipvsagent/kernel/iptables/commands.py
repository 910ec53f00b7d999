"""The iptables programs: which of them the node uses, and running them.

A node has two kinds of packet rules, old (legacy) and new (nft), each with its own programs, and one kind does not
see the other's. Rules are to be where kubelet and the CNI plugin put theirs; the choice is the one of
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
"""What iptables-save prints, by variant and family; without those that do not work here."""


class Variant(Struct, frozen=True):
    """Which kind of rules is used, and why."""

    mode: Mode
    reason: str


class RulesRefused(KernelError):
    """iptables refused. line: what it said. rule, number: the line of our text that it named, if it did; from 1 on."""

    def __init__(self, line: str, rule: str = "", code: int = errno.EINVAL, number: int = 0) -> None:
        super().__init__(code, line)
        self.line = line
        self.rule = rule
        self.number = number
        self.args = (f"{line}{f' (the rule is: {rule})' if rule else ''}",)


class RulesLocked(RulesRefused):
    """Another program held the lock of the packet rules all the time."""


class IptablesCommands:
    """Runs the programs of one variant and family. lock_seconds: how long to wait for other programs.

    It acts on the network namespace of its caller. Raises StartError if a program is not installed.
    """

    def __init__(self, family: Family, mode: Mode, lock_seconds: float = 10.0) -> None:
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
        """Equal values: nobody changed these tables in between, as far as this can tell. Raises KernelError."""
        if self._generation is None:
            try:
                self._generation = NftGeneration() if self.mode is Mode.NFT else LegacyGeneration(self.family)
            except OSError as error:
                raise KernelError.of(error.errno or errno.EIO, "no access to the packet rules") from error
        return self._generation.read(tables)

    def follows(self, before: Hashable, now: Hashable, commits: int) -> bool:
        """Whether a write of so many tables, and nobody else's, can have led from one generation to the other."""
        if self.mode is Mode.LEGACY:
            return True  # it does not count; what others wrote in the same milliseconds is found when they write again
        assert isinstance(before, bytes) and isinstance(now, bytes)
        return int.from_bytes(now, "big") - int.from_bytes(before, "big") <= commits

    def save(self) -> str:
        """What iptables-save prints. Raises RulesRefused."""
        return self._run([self._save], "")

    def restore(self, text: str) -> None:
        """Atomic by table; what is not named in `text` stays. Raises RulesRefused, RulesLocked.

        So do counters, except that legacy begins those of policies anew, as with every write of anybody, and writes
        those of rules in a second step: a kill between the two loses them.
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
            # Bytes: comments of other programs need be no UTF-8, and text mode makes a newline of their \r.
            done = subprocess.run(
                argv,
                input=text.encode(errors="surrogateescape"),
                capture_output=True,
                timeout=_TIMEOUT,
                env={"PATH": _PATH, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired as error:
            raise RulesRefused(f"{argv[0]} did not end in {_TIMEOUT:.0f} s", code=errno.ETIMEDOUT) from error
        except OSError as error:
            raise RulesRefused(f"{argv[0]} cannot be run: {error}", code=error.errno or errno.EIO) from error
        if done.returncode == 0:
            return done.stdout.decode(errors="surrogateescape")
        raise _refusal(os.path.basename(argv[0]), done.returncode, done.stderr.decode(errors="replace"), text)


def _refusal(name: str, status: int, stderr: str, text: str) -> RulesRefused:
    said = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("Try `")]
    line = "; ".join(said).replace(":; ", ": ") or f"exit status {status}"
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
    """The path of a program of one variant. Raises StartError if it is not installed."""
    command = COMMAND[family]
    found = shutil.which(f"{command}-{mode}{suffix}", path=_PATH)
    plain = shutil.which(f"{command}{suffix}", path=_PATH)
    if found is None and plain is not None and _mode_of(plain.removesuffix(suffix)) is mode:
        found = plain
    if found is None:
        raise StartError(f"{command}-{mode}{suffix} is not installed", "Install the Debian package iptables")
    return found


def _mode_of(command: str) -> Mode:
    """Of an installation that has only one; before 1.8 there was only legacy, and it did not say so."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=_TIMEOUT)
    return Mode.NFT if "nf_tables" in done.stdout else Mode.LEGACY


def find_variant(saved: SavedRules | None = None) -> Variant:
    """The variant that this node uses, of both families together. Raises StartError if there is no iptables. saved:
    what `saved_rules` read a moment ago, if anybody did."""
    texts = working_modes(saved)
    for mode, text in texts.items():
        if hint := _HINT.search(text):
            return Variant(mode, f"kubelet's chain {hint[1]} is there")
    if not texts:
        tool = program(Family.IPV4, Mode.NFT, "-save")  # or the error that it is missing
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
    """iptables-nft-save is content with nf_tables that lack the families, where nothing can be written."""
    scratch = "*mangle\n:IPVSAGENT-TRY - [0:0]\nCOMMIT\n*mangle\n-X IPVSAGENT-TRY\nCOMMIT\n"
    try:
        IptablesCommands(Family.IPV4, mode).restore(scratch)
    except RulesLocked:
        raise
    except RulesRefused:
        return False
    return True


def working_modes(saved: SavedRules | None = None) -> dict[Mode, str]:
    """The kinds of rules that this kernel and this installation have, with all their rules in both families. saved:
    what `saved_rules` read a moment ago, if anybody did."""
    texts: dict[Mode, str] = {}
    for (mode, _), text in (saved_rules() if saved is None else saved).items():
        texts[mode] = texts.get(mode, "") + text
    return texts


def saved_rules() -> SavedRules:
    """Runs iptables-save once for each variant and family."""
    texts = {(mode, family): saved_rules_of(mode, family) for mode in Mode for family in Family}
    return {which: text for which, text in texts.items() if text is not None}


def saved_rules_of(mode: Mode, family: Family) -> str | None:
    """Returns what iptables-save prints of one variant and family; None if that does not work here."""
    try:
        return IptablesCommands(family, mode).save()
    except (StartError, RulesRefused):
        return None
