"""Configuration files that are followed: when a version is read, and what is said of one that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

from ipvsagent.config import Config
from ipvsagent.sources.configuration import ORIGIN, ConfigurationFiles, NewConfig
from ipvsagent.sources.inbox import Findings

HEAD = "apiVersion: ipvsagent.io/v1alpha1\nkind: IPVSAgentConfiguration\n"
FIRST = HEAD + "drainTimeout: 1m\n"


def put(path: Path, text: str) -> None:
    """As a whole."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def followed(path: Path, text: str = FIRST, **options: str) -> ConfigurationFiles:
    path.write_text(text)
    files = ConfigurationFiles([path], options, {str(path): text.encode()})
    assert files.poll() == [] and files.poll() == []
    return files


def config_in(messages: list[NewConfig | Findings]) -> Config:
    findings, new = messages
    assert findings == Findings(ORIGIN) and isinstance(new, NewConfig)
    return new.config


def test_a_new_version(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    files = followed(path)
    put(path, HEAD + "drainTimeout: 2m\n")
    config = config_in(files.poll())
    assert config.drain_timeout == 120 and config.node_name
    assert files.poll() == []


def test_options_count_as_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    files = followed(path, **{"--scheduler": "lc"})
    put(path, HEAD + "drainTimeout: 2m\n")
    assert config_in(files.poll()).scheduler == "lc"


def test_a_file_that_was_changed_before_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "drainTimeout: 3m\n")
    files = ConfigurationFiles([path], {}, {str(path): FIRST.encode()})
    assert config_in(files.poll() or files.poll()).drain_timeout == 180


def test_one_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    files = followed(path)
    with path.open("w") as file:
        file.write(HEAD)
        file.flush()
        assert files.poll() == [] and files.poll() == [], "half of it is valid, too"
        file.write("drainTimeout: 5m\n")
    assert files.poll() == []
    assert config_in(files.poll()).drain_timeout == 300


def test_the_mount_of_a_config_map(tmp_path: Path) -> None:
    """Its names are links into a folder that is exchanged as a whole."""
    for name, text in (("one", FIRST), ("two", HEAD + "drainTimeout: 2m\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "c.yaml"
    path.symlink_to("..data/c.yaml")
    files = ConfigurationFiles([path], {}, {str(path): FIRST.encode()})
    assert files.poll() == [] and files.poll() == []
    (tmp_path / "..new").symlink_to("two")
    os.rename(tmp_path / "..new", tmp_path / "..data")
    assert config_in(files.poll()).drain_timeout == 120


def test_a_wrong_version_is_said_and_then_over(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    files = followed(path)
    put(path, HEAD + "drainTimeout: soon\n")
    (said,) = files.poll()
    assert isinstance(said, Findings) and said.origin == ORIGIN
    (finding,) = said.findings
    assert (finding.file, finding.field, finding.severity) == (str(path), "drainTimeout", "error")
    assert finding.reason.endswith("; the settings in force are kept")
    assert files.poll() == []
    put(path, FIRST)
    assert config_in(files.poll()).drain_timeout == 60, "also if it is as it was"


def test_a_missing_file_is_said_at_the_second_look(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    files = followed(path)
    path.unlink()
    assert files.poll() == [], "an editor may have it away for a moment"
    (said,) = files.poll()
    assert isinstance(said, Findings) and "cannot be read (No such file or directory)" in said.findings[0].reason
    put(path, FIRST)
    assert config_in(files.poll() or files.poll()).drain_timeout == 60


def test_two_files_are_read_together(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.yaml", tmp_path / "theirs.yaml"
    ours.write_text(FIRST)
    text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"
    theirs.write_text(text)
    files = ConfigurationFiles([ours, theirs], {}, {str(ours): FIRST.encode(), str(theirs): text.encode()})
    assert files.poll() == [] and files.poll() == []
    put(theirs, text + "ipvs: {scheduler: lc}\n")
    config = config_in(files.poll())
    assert (config.scheduler, config.drain_timeout) == ("lc", 60)
