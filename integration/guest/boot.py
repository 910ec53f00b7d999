"""Start the guest, pass its output on, watch over it, and fetch the command's exit status."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from integration.guest.build import MODULE_LISTS
from integration.guest.check import missing_packages, remedy
from integration.guest.command import command_script, guest_environment
from integration.guest.errors import GuestError, GuestTimeout
from integration.guest.kernels import DEBIAN, Kernel, find_kernel
from integration.guest.places import make_work_directory, memory_directory, parse_memory, resolve_shares

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT_LIMIT = 180.0  # seconds until the command is started; about 4 are usual
POLL = 0.03


def run_in_guest(
    argv: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    shares: Sequence[str | os.PathLike[str]] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 900.0,
    memory: str = "2G",
    kernel: str = DEBIAN,
    cpus: int | None = None,
    iptables: str | None = None,
) -> int:
    """Run a command in a new guest; its exit status (128 + n if signal n ended it).

    What it writes goes to file descriptors 1 and 2. `shares` are the directories whose changes reach the host, in
    addition to the checkout; `env` is added to the environment. `kernel` is a name of `kernels`; `cpus` is the number
    of its processors (default: as many as this machine has, if the kernel can); `iptables` is what the command of that
    name means, `legacy` or `nft` (default: what is usual on that kernel). Raises GuestError (GuestTimeout) when the
    harness fails; an exception such as KeyboardInterrupt ends the guest.
    """
    if not argv:
        raise GuestError("no command given: add -- COMMAND")
    missing = missing_packages(boot_only=True)
    if missing:
        raise GuestError(remedy(missing))
    found = find_kernel(kernel)
    boots = found.arguments(min(found.cpus, os.cpu_count() or 1) if cpus is None else cpus)
    variant = iptables or found.iptables[0]
    if variant not in found.iptables:
        raise GuestError(f"iptables-{variant} does not work on kernel {found.name}: {', '.join(found.iptables)} does")
    _fill_standard_descriptors()
    directory = os.path.realpath(cwd or os.getcwd())
    share_list = resolve_shares([str(CHECKOUT), *(os.fspath(share) for share in shares or ())], directory)
    memory_dir = memory_directory(parse_memory(memory))
    terminal = os.isatty(1)
    script = command_script(argv, directory, guest_environment(os.environ, env or {}, terminal=terminal))
    work = make_work_directory()
    try:
        _write_work_directory(work, script, share_list, variant)
        for name in MODULE_LISTS:
            if (lists := found.program.with_name(name)).exists():
                shutil.copy(lists, work / name)
        return _boot(found, boots, work, memory, memory_dir, timeout)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill_standard_descriptors() -> None:
    """Opens /dev/null for standard files that are closed: else our pipes would get their numbers."""
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return


def _write_work_directory(work: Path, script: bytes, shares: list[str], iptables: str) -> None:
    (work / "root").mkdir()
    (work / "uml").mkdir()
    shutil.copyfile(Path(__file__).with_name("init.sh"), work / "init.sh")
    (work / "command.sh").write_bytes(script)
    (work / "shares").write_bytes(b"".join(os.fsencode(share) + b"\n" for share in shares))
    (work / "iptables").write_text(iptables)
    same = os.path.sameopenfile(1, 2)
    (work / "stdout").write_text("terminal" if os.isatty(1) else "pipe")
    (work / "stderr").write_text("same" if same else "terminal" if os.isatty(2) else "pipe")
    size = shutil.get_terminal_size()
    (work / "size").write_text(f"rows {size.lines} columns {size.columns}" if os.isatty(1) else "")


def _boot(kernel: Kernel, words: list[str], work: Path, memory: str, memory_dir: str, timeout: float | None) -> int:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    log = os.open(work / "boot.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    arguments = [
        str(kernel.program),
        f"mem={memory}",
        *words,
        *("rootfstype=hostfs", "rootflags=/", "ro", "init=/bin/sh", "panic=-1"),
        *(
            "con=null",
            "ssl=null",
            f"con0=null,fd:{log}",
            f"con1=null,fd:{out_write}",
            f"con2=null,fd:{err_write}",
        ),
        *(f"uml_dir={work}/uml", f"umid={work.name}"),
        *("--", f"{work}/init.sh"),
    ]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(log, out_write, err_write),
            env={"PATH": os.defpath, "HOME": str(work), "TMPDIR": memory_dir, "TERM": "dumb"},
            start_new_session=True,
        )
    except OSError as error:
        os.close(out_read)
        os.close(err_read)
        raise GuestError(f"cannot start {arguments[0]}: {error}; run `make setup`") from error
    finally:
        for descriptor in (out_write, err_write, log):
            os.close(descriptor)
    watchdog = _Watchdog(process.pid, work)
    pumps = [_Pump(out_read, 1), _Pump(err_read, 2)]
    try:
        _wait(process.pid, work, pumps, timeout)
    finally:
        # Before the leader is reaped, so that the group's number cannot belong to anyone else.
        _kill_group(process.pid)
        process.wait()
        watchdog.dismiss()
        for pump in pumps:
            pump.join(10)
    return _read_status(work)


def _wait(pid: int, work: Path, pumps: list[_Pump], timeout: float | None) -> None:
    """Returns when the guest has powered off, or its output has nowhere to go."""
    begin = time.monotonic()
    status_seen = 0.0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = time.monotonic()
        for pump in pumps:
            if pump.error is not None:
                raise pump.error
        if not status_seen and (work / "status").exists():
            status_seen = now
        if status_seen:
            if now - status_seen > 20:  # it should power off by itself, but the answer is there
                return
        elif timeout is not None and now - begin > timeout:
            raise GuestTimeout(f"no end after {timeout:g} s, killed: give more with --timeout, or see what hangs")
        elif now - begin > BOOT_LIMIT and not (work / "started").exists():
            raise GuestError(f"no boot within {BOOT_LIMIT:g} s: is the machine overloaded?\n{_log_tail(work)}")
        time.sleep(POLL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _read_status(work: Path) -> int:
    if (work / "no-directory").exists():
        raise GuestError("the guest does not have the current directory: add --share with it")
    try:
        return int((work / "status").read_text())
    except (FileNotFoundError, ValueError):
        pass
    if (work / "failure").exists():
        reason = (work / "failure").read_text().strip()
    elif (work / "started").exists():
        reason = "the guest ended before the command did (out of memory? give more with --memory)"
    else:
        reason = "the guest did not boot"
    raise GuestError(f"{reason}; try `python -m integration.guest --check`. Last lines of its log:\n{_log_tail(work)}")


def _log_tail(work: Path) -> str:
    lines = (work / "boot.log").read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-15:])


class _Pump(threading.Thread):
    """Copies what the guest writes to one of our own files, as it comes."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__(daemon=True)
        self.error: OSError | None = None
        self._source = source
        self._target = target
        self.start()

    def run(self) -> None:
        try:
            while data := os.read(self._source, 65536):
                self._write(data)
        except OSError as error:
            self.error = error
        finally:
            os.close(self._source)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                select.select([], [self._target], [])


class _Watchdog:
    """Ends the guest and tidies up should this process die without a chance to do it itself."""

    # Not `kill -KILL --`: dash takes no `--` after that form.
    _SCRIPT = 'read -r word || { kill -s KILL -- "-$1"; rm -rf -- "$2"; }'

    def __init__(self, group: int, work: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "guest-watchdog", str(group), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"done\n")
            self._process.stdin.close()
        self._process.wait()
