"""A second agent that waits for the first: it ends on a signal, and does not wait if it could not start afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsagent.backends.assembly import lock_path
from ipvsagent.cli import run
from ipvsagent.config import Config
from ipvsagent.errors import StartError
from ipvsagent.kernel import sysctls
from ipvsagent.kernel.host import AgentLock
from ipvsagent.kernel.sysctls import Setting

WAITS = """
import sys
from ipvsagent.cli import main, run
run.host.require_privilege = lambda: None
run._require_start = lambda config: None
main(["run", *sys.argv[1:]])
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Config]:
    config = Config(state_dir=tmp_path)
    lock = AgentLock(lock_path(config))
    assert lock.try_acquire()
    yield config
    lock.release()


@pytest.mark.parametrize(("words", "status"), [([], 0), (["--once"], 143)])
def test_sigterm_ends_it_at_once(held: Config, words: list[str], status: int) -> None:
    (held.state_dir / "objects").mkdir()
    argv = [sys.executable, "-c", WAITS, "--state-dir", str(held.state_dir), "--source", f"{held.state_dir}/objects"]
    with subprocess.Popen([*argv, *words], stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr
        assert "waiting for it to end" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGTERM)
        try:
            assert waiting.wait(timeout=5) == status
            assert waiting.stderr.read() == ""
        finally:
            waiting.kill()


def test_who_could_not_start_does_not_wait(held: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config, *, load_modules: bool) -> None:
        raise StartError("the kernel has no IPVS", "Load it")

    monkeypatch.setattr(run, "open_backend", refuse)
    with pytest.raises(StartError, match="no IPVS"):
        run._lock(held)


def test_vital_settings_that_cannot_be_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Setting("net.ipv4.no_such_setting", 1, "of a test")
    optional = Setting("net.ipv4.nor_this_one", 1, "of a test", vital=False)
    sysctls.require([optional])
    with pytest.raises(StartError, match="no_such_setting is None") as caught:
        sysctls.require([missing, optional])
    assert "sysctl -w net.ipv4.no_such_setting=1" in caught.value.remedy
    monkeypatch.setattr(sysctls, "is_writable", lambda name: True)
    sysctls.require([missing])
