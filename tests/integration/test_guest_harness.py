"""The parts of the guest harness that need no guest."""

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.guest import GuestError, check, run_in_guest
from integration.guest.__main__ import main
from integration.guest.command import command_script, guest_environment
from integration.guest.places import memory_directory, parse_memory, resolve_shares


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("2G", 2 << 30), ("2g", 2 << 30)])
def test_memory_sizes(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "G", "2T", "-1G", "64M", "0"])
def test_memory_sizes_that_cannot_boot_are_refused(text):
    with pytest.raises(GuestError):
        parse_memory(text)


def test_memory_that_fits_nowhere_says_what_to_do():
    with pytest.raises(GuestError, match="--memory"):
        memory_directory(1 << 60)


def test_shares_are_absolute_and_outer_ones_first(tmp_path):
    inner = tmp_path / "a b"
    inner.mkdir()
    (tmp_path / "link").symlink_to(inner)
    shares = resolve_shares([str(tmp_path / "link"), str(tmp_path)], str(inner))
    assert shares == [str(tmp_path), str(inner)]


def test_folders_the_guest_cannot_show_are_refused(tmp_path):
    with pytest.raises(GuestError, match="not a directory"):
        resolve_shares([str(tmp_path / "none")], "/")
    with pytest.raises(GuestError, match="cannot be shared"):
        resolve_shares(["/tmp"], "/")
    with pytest.raises(GuestError, match="--share /dev/shm"):
        resolve_shares([], "/dev/shm")


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(words, max_size=5))
def test_arguments_arrive_unchanged(arguments):
    script = command_script(["printf", "%s\\0", "first", *arguments], "/", {"PATH": "/usr/bin:/bin"})
    written = subprocess.run(["sh"], input=script, capture_output=True, check=True).stdout
    assert written.decode().split("\0")[:-1] == ["first", *arguments]


def test_environment_of_a_command_without_terminal():
    env = guest_environment(
        {
            "PATH": "/opt/bin:/bin",
            "MAKEFLAGS": "-j --jobserver-auth=3,4",
            "CI": "true",
            "BASH_FUNC_x%%": "() {",
        },
        {"EXTRA": "1"},
        terminal=False,
    )
    assert env["PATH"].startswith("/opt/bin:/bin:")
    assert "/usr/sbin" in env["PATH"].split(":")
    assert (env["CI"], env["EXTRA"], env["NO_COLOR"], env["TERM"]) == ("true", "1", "1", "dumb")
    assert not {"MAKEFLAGS", "BASH_FUNC_x%%"} & env.keys()


def test_environment_of_a_command_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "99")
    monkeypatch.setenv("LINES", "33")
    env = guest_environment({"TERM": "xterm"}, {}, terminal=True)
    assert (env["TERM"], env["COLUMNS"], env["LINES"]) == ("xterm", "99", "33")
    assert "NO_COLOR" not in env


def test_missing_packages_are_named(monkeypatch, capfd):
    monkeypatch.setattr(check, "find_program", lambda name: None if name == "linux.uml" else f"/bin/{name}")
    assert check.missing_packages() == ["user-mode-linux"]
    with pytest.raises(GuestError, match=r"apt-get install .* user-mode-linux"):
        run_in_guest(["true"])
    assert main(["--check"]) == 1
    assert main(["--", "true"]) == 125
    assert "make setup" in capfd.readouterr().err


def test_remedy_can_be_pasted():
    command = check.remedy(["kmod", "ipset"]).split("`")[3]
    assert shlex.split(command)[-2:] == ["kmod", "ipset"]
