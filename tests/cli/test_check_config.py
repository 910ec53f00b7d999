"""`check-config`, `--config` and `--write-config-to` as a person and a script meet them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.programs import ipvsagent

DATA = Path(__file__).parent.parent / "data" / "online-boutique.yaml"
FILES = Path(__file__).parent.parent / "config" / "files"
OURS = "apiVersion: ipvsagent.io/v1alpha1\nkind: IPVSAgentConfiguration\n"


def test_a_good_file() -> None:
    done = ipvsagent("check-config", FILES / "kubespray.yaml")
    assert done.returncode == 0 and "error" not in done.stdout


def test_every_problem_is_printed_and_the_status_is_64(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(OURS + "drainTimeout: soon\nnew: 1\n")
    done = ipvsagent("check-config", file)
    assert done.returncode == 64
    assert done.stdout.splitlines() == [
        f"error: {file}: IPVSAgentConfiguration drainTimeout: 'soon' is not a duration; write for example 30s, 15m or "
        "1h30m",
        f"error: {file}: IPVSAgentConfiguration new: is not a field of IPVSAgentConfiguration",
    ]
    assert done.stderr == "2 errors: `run` would refuse this\n"


def test_as_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(OURS + "drainTimeout: soon\n")
    wrong = ipvsagent("check-config", file, "-o", "json")
    assert wrong.returncode == 64
    document = json.loads(wrong.stdout)
    assert (document["ok"], document["documents"]) == (False, [])
    assert document["problems"][0]["path"] == "drainTimeout"
    file.write_text(OURS + "drainTimeout: 1m\n")
    right = yaml.safe_load(ipvsagent("check-config", file, FILES / "eks.yaml", "-o", "yaml").stdout)
    assert right["ok"] and right["problems"] == []
    assert [document["kind"] for document in right["documents"]] == ["KubeProxyConfiguration", "IPVSAgentConfiguration"]
    assert right["documents"][1]["drainTimeout"] == "1m"


def test_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ipvsagent", "check-config", "-"],
        input=(FILES / "kubeadm.yaml").read_text().replace("mode: ipvs", "mode: userspace"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 64
    assert "error: -[config.conf]: KubeProxyConfiguration mode: 'userspace' is not one of" in done.stdout


def test_no_such_file() -> None:
    done = ipvsagent("check-config", "/nonexistent")
    assert done.returncode == 64 and "/nonexistent: cannot be read: No such file or directory" in done.stderr


def test_plan_takes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text((FILES / "kubespray.yaml").read_text() + "---\n" + OURS + f"sources: [{DATA}]\ninterface: svc0\n")
    done = ipvsagent("plan", "--against", "empty", "--config", file, "--scheduler", "lc")
    assert "ipvsadm -A -t 10.96.0.1:443 -s wlc" in done.stdout and "dev svc0" in done.stdout
    assert f"--scheduler: is ignored: the KubeProxyConfiguration in {file} decides (ipvs.scheduler)" in done.stderr


def test_wrong_files_and_options_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(OURS + "new: 1\n")
    done = ipvsagent("plan", "--config", file, "--drain-timeout", "soon")
    assert done.returncode == 64
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [str(file), "--drain-timeout"]


def test_settings_are_written(tmp_path: Path) -> None:
    file = tmp_path / "written.yaml"
    words = ("--scheduler", "wlc", "--drain-timeout", "1m", "--masquerade-all", "--source", "/objects")
    done = ipvsagent("run", *words, "--write-config-to", file)
    assert (done.returncode, done.stderr) == (0, "")
    kube_proxy, ours = yaml.safe_load_all(file.read_text())
    assert (kube_proxy["ipvs"]["scheduler"], kube_proxy["iptables"]["masqueradeAll"]) == ("wlc", True)
    assert (ours["drainTimeout"], ours["sources"]) == ("1m", ["/objects"])
    assert kube_proxy["hostnameOverride"] == "", "a file for all nodes"
    again = ipvsagent("run", "--config", file, "--write-config-to", "-")
    assert again.stdout == file.read_text()
    assert ipvsagent("check-config", file).returncode == 0


def test_kube_proxys_cleanup_is_a_command_here() -> None:
    done = ipvsagent("run", "--cleanup")
    assert done.returncode == 64 and "ipvsagent cleanup" in done.stderr
