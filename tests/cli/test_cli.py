"""The command line as a person and a script meet it, without a kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ipvsagent.cli.options import PATH
from ipvsagent.errors import StartError
from ipvsagent.kernel.host import make_state_dir
from tests.support.programs import ipvsagent

DATA = Path(__file__).parent.parent / "data" / "online-boutique.yaml"
EMPTY = ["plan", "--against", "empty", "--hostname-override", "node-1"]


def test_plan_prints_commands_by_service_and_exits_2() -> None:
    done = ipvsagent(*EMPTY, "--source", DATA)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[:7] == [
        "# default/kubernetes:https",
        "ipvsadm -A -t 10.96.0.1:443 -s rr",
        "ipvsadm -a -t 10.96.0.1:443 -r 192.168.56.10:6443 -m -w 1",
        "ipset add IPVSAGENT-SERVICE 10.96.0.1,tcp:443",
        "ipset add IPVSAGENT-CLUSTER 10.96.0.1,tcp:443",
        "ipset add IPVSAGENT-VIP 10.96.0.1",
        "ip address add 10.96.0.1/32 dev kube-ipvs0",
    ]
    changes = [line for line in lines if not line.startswith("#")]
    assert done.stderr.splitlines()[-1] == f"{len(changes)} changes: {len(changes)} to add"
    assert len(set(changes)) == len(changes)


def test_plan_of_nothing_exits_0(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: None}\n")
    done = ipvsagent(*EMPTY, "--source", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing would change" in done.stderr


def test_json_and_yaml_say_the_same() -> None:
    as_json = json.loads(ipvsagent(*EMPTY, "--source", DATA, "-o", "json").stdout)
    as_yaml = yaml.safe_load(ipvsagent(*EMPTY, "--source", DATA, "-o", "yaml").stdout)
    assert as_json == as_yaml
    assert as_json["operations"][0] == {
        "verb": "add",
        "command": "ipvsadm -A -t 10.96.0.1:443 -s rr",
        "service": "default/kubernetes:https",
    }


def test_options_change_the_plan() -> None:
    done = ipvsagent(*EMPTY, "--source", DATA, "--ipvs-scheduler", "lc", "--interface", "svc0")
    assert "ipvsadm -A -t 10.96.0.1:443 -s lc" in done.stdout
    assert "ip address add 10.96.0.1/32 dev svc0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["plan"], 64, "no source: give --kubeconfig FILE"),
        (["plan", "--source", "/nonexistent"], 1, "/nonexistent does not exist"),
        (["plan", "--source", ".", "--drain-timeout", "soon"], 64, "'soon' is not a duration"),
        (["plan", "--source", ".", "--exclude-cidrs", "10.0.0.0/99"], 64, "'10.0.0.0/99' is not a CIDR"),
        (
            ["plan", "--source", ".", "--nodeport-addresses", "primary,10.0.0.0/8"],
            64,
            '"primary" cannot be combined with other values',
        ),
        (["plan", "--source", ".", "--no-such-option"], 64, "No such option"),
        (["fly"], 64, "no such command 'fly'; the commands are run, plan, status"),
    ],
)
def test_wrong_usage_is_a_sentence(arguments: list[str], status: int, said: str) -> None:
    done = ipvsagent(*arguments)
    assert done.returncode == status
    assert said in done.stderr and "Traceback" not in done.stderr


def test_bad_objects_are_named_and_the_rest_is_planned() -> None:
    case = Path(__file__).parent.parent / "golden" / "broken-objects" / "cluster.yaml"
    done = ipvsagent(*EMPTY, "--source", case)
    assert done.returncode == 2
    assert "ipvsadm -A -t 10.96.0.2:80 -s rr" in done.stdout
    assert f"{case}: Service shop/no-such-port spec.ports[0].port: 70000 is not in the range" in done.stderr


def test_a_service_that_was_never_applied_is_named_by_plan(tmp_path: Path) -> None:
    """A plain manifest, as a chart or a repository holds it."""
    manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"
    (tmp_path / "web.yaml").write_text(manifest)
    done = ipvsagent(*EMPTY, "--source", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert (
        f"{tmp_path}/web.yaml: Service default/web spec.clusterIP: is missing, so the Service is not served"
        in done.stderr
    )


def test_version_and_help() -> None:
    assert ipvsagent("--version").stdout.strip() == "0.1.0"
    text = ipvsagent("--help").stdout
    for word in ("run", "plan", "status", "cleanup", "Exit status", "64  wrong usage"):
        assert word in text


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_closed_pipe_is_no_traceback_and_changes_no_answer(output: str) -> None:
    """Closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ipvsagent", *EMPTY, "--source", DATA, "-o", output],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert done.returncode == 2 and done.stderr.count("Traceback") == done.stderr.count("BrokenPipe") == 0


def test_on_iptables_commands_are_counted_and_a_scheduler_is_a_finding() -> None:
    done = ipvsagent(*EMPTY, "--source", DATA, "--backend", "iptables", "--scheduler", "wlc")
    commands = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert f"changes in {len(commands)} commands: " in done.stderr
    assert done.stderr.count("wlc has no effect") == 1


@pytest.mark.parametrize("output", ["text", "json", "yaml"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_file_whose_name_is_not_utf_8(output: str, locale: str, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")
    Path(name).write_text("apiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: nonsense}\n")
    done = ipvsagent(*EMPTY, "--source", tmp_path, "-o", output, LC_ALL=locale)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr
    if output == "text":
        assert "caf" in done.stderr
    else:
        (finding,) = [f for f in yaml.safe_load(done.stdout)["findings"] if "caf" in f.get("file", "")]
        assert finding["file"] == f"{tmp_path}/caf\ufffd.yaml"


def test_text_that_no_terminal_can_show(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")
    done = ipvsagent("check-config", name, LC_ALL="C.UTF-8", PYTHONIOENCODING="utf-8:strict")
    assert "Traceback" not in done.stderr and "caf" in done.stdout + done.stderr
    Path(name).write_text("apiVersion: nonsense/v1\nkind: Nonsense\n")
    done = ipvsagent("check-config", name, LC_ALL="C.UTF-8", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 64 and "caf?.yaml" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_the_backend_is_in_the_help_and_errors_name_what_was_typed(command: str) -> None:
    assert "--backend" in ipvsagent(command, "--help").stdout
    for typed, words in (("--backend", ["--backend", "foo"]), ("--proxy-mode", ["--proxy-mode=foo"])):
        done = ipvsagent(command, *words)
        assert done.returncode == 64
        assert f"ipvsagent: {typed}: 'foo' is not one of" in done.stderr


@pytest.mark.parametrize(
    ("content", "output"),
    [(b"", "text"), (b"only words\n", "text"), (b"\x00\x01\xff\xfe", "json"), (b"a: [1\n", "yaml"), (None, "json")],
)
def test_an_input_that_cannot_be_read_is_a_failure(content: bytes | None, output: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "broken.yaml").write_bytes(content)
    done = ipvsagent(*EMPTY, "--source", tmp_path, "-o", output)
    assert done.returncode == 1
    assert "nothing would change" not in done.stderr
    if output != "text":
        kinds = {finding["kind"] for finding in yaml.safe_load(done.stdout)["findings"]}
        assert kinds & {"unreadable-input", "empty-source"}


def test_one_broken_file_beside_good_ones_is_a_failure_with_a_plan(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_bytes(DATA.read_bytes())
    (tmp_path / "broken.yaml").write_text("a: [1")
    done = ipvsagent(*EMPTY, "--source", tmp_path)
    assert done.returncode == 1 and "ipvsadm -A" in done.stdout
    assert "an input could not be read" in done.stderr


def test_a_state_dir_that_may_not_be_read_is_no_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gave it: what is said is that the privilege lacks."""
    monkeypatch.setattr(os, "access", lambda *ignored: False)
    assert PATH.convert(str(tmp_path), None, None) == tmp_path


def test_a_file_that_cannot_be_written_is_named_with_its_option() -> None:
    done = ipvsagent("run", "--source", ".", "--write-config-to", "/nonexistent/x")
    assert done.returncode == 1
    assert done.stderr == "ipvsagent: --write-config-to /nonexistent/x: cannot be written: No such file or directory\n"


def test_a_state_dir_that_is_no_folder() -> None:
    with pytest.raises(StartError, match="--state-dir /dev/null cannot be used: it is not a directory"):
        make_state_dir(Path("/dev/null"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --proxy-mode i", ["plain,ipvs", "plain,iptables"]),
        ("run --log-level ", ["plain,debug", "plain,info", "plain,warning", "plain,error"]),
        ("run --scheduler w", ["plain,wrr", "plain,wlc"]),
        ("plan --source a", ["file,a"]),
        ("plan --kubeconfig a", ["file,a"]),
    ],
)
def test_a_shell_is_offered_the_values_of_an_option(words: str, offered: list[str]) -> None:
    environment = {**os.environ, "COMP_WORDS": f"ipvsagent {words}", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['ipvsagent']; from ipvsagent.cli import main; main()"],
        env={**environment, "_IPVSAGENT_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == offered
