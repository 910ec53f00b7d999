"""Manifest files as they come, change, break and go. The clock of the polls is the tests' own."""

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from ipvsagent.cluster.objects import BlindSpots, Changes
from ipvsagent.errors import SourceError
from ipvsagent.sources import manifests
from ipvsagent.sources.files import Busy, Stamp, list_files, read_whole
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.manifests import PATIENCE, ManifestSource


def service(name, port=80):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
    }


def write(path, *objects, old=True):
    """Writes in place; `old` files look as if they had been left alone for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    if old:
        age(path)


def age(path, seconds=10.0):
    """Always another time than the last: tests are quicker than the clock of a file system."""
    age.count += 1
    when = time.time_ns() - int(seconds * 1e9) + age.count
    os.utime(path, ns=(when, when))


age.count = 0


class Watcher:
    """A source and all that it said."""

    def __init__(self, *paths, **options):
        self.source = ManifestSource(paths, **options)
        self.now = 100.0
        self.ports = {}
        self.found = {}
        self.blind = None
        self.messages = []

    def poll(self, after=0.2):
        self.now += after
        self.messages = self.source.poll(self.now)
        for message in self.messages:
            if isinstance(message, Findings):
                self.found[message.origin] = message.findings
            else:
                assert message.synced
                self.ports.update({item.name: item.ports[0].port for item in message.upserts})
                for key in message.removals:
                    del self.ports[key.name]
                self.blind = message.blind or self.blind
        return self.ports

    @property
    def says(self):
        return [str(finding) for found in self.found.values() for finding in found]


def test_folders_and_files(tmp_path):
    write(tmp_path / "d" / "a.yaml", service("a"))
    write(tmp_path / "d" / "deep" / "er" / "b.yml", service("b"))
    write(tmp_path / "d" / "c.json", service("c"))
    write(tmp_path / "named.txt", service("d"))
    for name in (".hidden.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "README", "a.yaml.bak", ".git/x.yaml"):
        write(tmp_path / "d" / name, service("never"))
    changes, findings = ManifestSource([tmp_path / "d", tmp_path / "named.txt"]).load_once()
    assert [item.name for item in changes.upserts] == ["a", "c", "b", "d"]
    assert changes.synced
    assert changes.blind == BlindSpots()
    assert findings == []


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(SourceError, match=f"{tmp_path}/nowhere does not exist"):
        ManifestSource([tmp_path / "nowhere"])


def test_only_changes_are_sent(tmp_path):
    write(tmp_path / "a.yaml", service("a"))
    write(tmp_path / "b.yaml", service("b"))
    watcher = Watcher(tmp_path)
    assert watcher.poll() == {"a": 80, "b": 80}
    assert watcher.poll() == {"a": 80, "b": 80}
    assert watcher.messages == []
    write(tmp_path / "a.yaml", service("a", 81))
    assert watcher.poll() == {"a": 81, "b": 80}
    assert [len(message.upserts) for message in watcher.messages] == [1]
    age(tmp_path / "a.yaml")
    watcher.poll()
    assert watcher.messages == []


def test_a_file_is_read_only_when_it_changed(tmp_path, monkeypatch):
    write(tmp_path / "a.yaml", service("a"))
    read = []
    monkeypatch.setattr("ipvsagent.sources.manifests.read_whole", lambda *args: read.append(args) or read_whole(*args))
    watcher = Watcher(tmp_path)
    for _ in range(3):
        watcher.poll()
    assert len(read) == 1


def test_a_file_being_written_is_not_believed(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"), service("b"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    with open(path, "w") as file:
        file.write(json.dumps(service("a")) + "\n")
        file.flush()
        for _ in range(3):
            age(path)
            assert watcher.poll() == {"a": 80, "b": 80}
        file.write(json.dumps(service("b", 81)))
    age(path)
    assert watcher.poll() == {"a": 80, "b": 81}
    assert watcher.says == []


def test_a_file_just_written_must_be_left_alone_for_one_poll(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    write(path, service("a", 81), old=False)
    age(path, -60)
    assert watcher.poll() == {"a": 80}
    age(path, -60)
    assert watcher.poll() == {"a": 80}
    assert watcher.poll() == {"a": 81}


def test_a_file_put_in_place_by_renaming_is_read_at_once(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    write(tmp_path / ".new", service("a", 81), old=False)
    os.rename(tmp_path / ".new", path)
    assert watcher.poll() == {"a": 81}


def test_a_file_held_open_for_writing_is_found(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    write(tmp_path / "b.yaml", service("b"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    with open(path, "w") as file:
        age(path)
        watcher.poll()
        watcher.poll(PATIENCE - 0.1)
        assert watcher.says == []
        assert watcher.poll(0.2) == {"a": 80, "b": 80}
        assert watcher.says == [
            f"{path}: another process has it open for writing for more than 5 s; "
            "what it held before (1 object) stays in use"
        ]
        (tmp_path / "b.yaml").unlink()
        watcher.poll()
        assert watcher.poll() == {"a": 80, "b": 80}
        assert f"Service default/b: is gone, but kept until {path} can be read without errors" in watcher.says
        file.write(json.dumps(service("c")))
    age(path)
    assert watcher.poll() == {"c": 80}
    assert watcher.says == []


def test_the_first_state_waits_for_a_file_being_written(tmp_path):
    write(tmp_path / "a.yaml", service("a"))
    watcher = Watcher(tmp_path)
    with open(tmp_path / "b.yaml", "w") as file:
        age(tmp_path / "b.yaml")
        watcher.poll()
        watcher.poll()
        assert watcher.messages == []
        file.write(json.dumps(service("b")))
    age(tmp_path / "b.yaml")
    assert watcher.poll() == {"a": 80, "b": 80}


def test_the_first_state_does_not_wait_for_ever(tmp_path):
    path = tmp_path / "b.yaml"
    write(tmp_path / "a.yaml", service("a"))
    watcher = Watcher(tmp_path)
    with open(path, "w"):
        age(path)
        watcher.poll()
        assert watcher.poll(PATIENCE) == {"a": 80}
    assert watcher.blind == BlindSpots(anything=True)
    assert watcher.says == [
        f"{path}: another process has it open for writing for more than 5 s; nothing is removed until it can be read"
    ]


def test_a_file_that_is_gone_for_a_moment(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    write(tmp_path / "b.yaml", service("b"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    path.unlink()
    assert watcher.poll() == {"a": 80, "b": 80}
    write(path, service("a", 81))
    assert watcher.poll() == {"a": 81, "b": 80}
    path.unlink()
    watcher.poll()
    assert watcher.poll() == {"b": 80}


def test_while_files_go_one_after_the_other_none_is_believed(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.yaml", service(name))
    watcher = Watcher(tmp_path)
    watcher.poll()
    for name in "abc":
        (tmp_path / f"{name}.yaml").unlink()
        assert set(watcher.poll()) == {"a", "b", "c"}
    assert set(watcher.poll()) == {"a", "b", "c"}
    assert watcher.says == [
        f"{tmp_path}: it holds no Service, EndpointSlice or Node: nothing is removed without --allow-empty; "
        "what it held before (3 objects) stays in use"
    ]
    write(tmp_path / "d.yaml", service("d"))
    assert watcher.poll() == {"d": 80}
    assert watcher.says == []


def test_a_folder_that_vanishes(tmp_path):
    folder = tmp_path / "d"
    write(folder / "a.yaml", service("a"))
    watcher = Watcher(folder)
    watcher.poll()
    folder.rename(tmp_path / "e")
    watcher.poll()
    assert watcher.says == []
    assert watcher.poll() == {"a": 80}
    assert watcher.says == [f"{folder}: it does not exist; nothing is removed until it can be read"]
    (tmp_path / "e").rename(folder)
    watcher.poll()
    assert watcher.poll() == {"a": 80}
    assert watcher.says == []
    assert watcher.blind == BlindSpots()


def test_a_folder_that_vanishes_on_purpose(tmp_path):
    folder = tmp_path / "d"
    write(folder / "a.yaml", service("a"))
    watcher = Watcher(folder, allow_empty=True)
    watcher.poll()
    folder.rename(tmp_path / "e")
    watcher.poll()
    assert watcher.poll() == {}


def test_a_named_file_that_vanishes(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    watcher = Watcher(path)
    watcher.poll()
    path.unlink()
    watcher.poll()
    assert watcher.poll() == {"a": 80}
    assert watcher.says == [f"{path}: it does not exist; what it held before (1 object) stays in use"]
    write(path, service("a", 81))
    assert watcher.poll() == {"a": 81}
    assert watcher.says == []


def test_a_subfolder_that_is_deleted(tmp_path):
    write(tmp_path / "a.yaml", service("a"))
    write(tmp_path / "d" / "b.yaml", service("b"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    (tmp_path / "d" / "b.yaml").unlink()
    (tmp_path / "d").rmdir()
    watcher.poll()
    assert watcher.poll() == {"a": 80}
    assert watcher.says == []


def test_broken_and_mended(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    watcher = Watcher(tmp_path)
    watcher.poll()
    path.write_text("kind: [")
    age(path)
    assert watcher.poll() == {"a": 80}
    assert watcher.says == [
        f"{path}: it is not YAML: line 2: did not find expected node content; "
        "what it held before (1 object) stays in use"
    ]
    write(path, service("a", 0))
    assert watcher.poll() == {"a": 80}
    assert watcher.says == [
        f"{path}: Service default/a spec.ports[0].port: 0 is not in the range 1 to 65535; "
        "its last accepted version stays in use"
    ]
    write(path, service("a", 81))
    assert watcher.poll() == {"a": 81}
    assert watcher.says == []


def test_a_config_map_that_is_mounted(tmp_path):
    def publish(generation, port):
        write(tmp_path / f"..{generation}" / "a.yaml", service("a", port), old=False)
        os.symlink(f"..{generation}", tmp_path / "..data_tmp")
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    publish("one", 80)
    os.symlink("..data/a.yaml", tmp_path / "a.yaml")
    age(tmp_path / "a.yaml")
    watcher = Watcher(tmp_path)
    assert watcher.poll() == {"a": 80}
    publish("two", 81)
    assert watcher.poll() == {"a": 81}
    assert watcher.says == []


def test_links(tmp_path):
    write(tmp_path / "real" / "a.yaml", service("a"))
    folder = tmp_path / "d"
    folder.mkdir()
    os.symlink(tmp_path / "real", folder / "linked")
    os.symlink(folder, folder / "loop")
    os.symlink("self", folder / "self")
    os.symlink("nowhere", folder / "b.yaml")
    listing = list_files([folder])
    assert list(listing.files) == [f"{folder}/linked/a.yaml"]
    assert listing.problems == {f"{folder}/b.yaml": "it is a dangling symbolic link"}


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    assert list_files([tmp_path]).problems == {f"{tmp_path}/a.yaml": "it is neither a file nor a directory"}


def test_a_refusal_to_read_is_told_and_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    watcher = Watcher(tmp_path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("ipvsagent.sources.manifests.read_whole", refuse)
        watcher.poll()
        assert watcher.says == [
            f"{path}: it cannot be read: Permission denied; nothing is removed until it can be read"
        ]
        watcher.poll()
        assert watcher.messages == []
    assert watcher.poll() == {"a": 80}
    assert watcher.says == []
    assert watcher.blind == BlindSpots()


def test_reading_notices_a_change_on_the_way(tmp_path):
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    stamp = Stamp.of(os.stat(path))
    assert read_whole(str(path), stamp) == path.read_bytes()
    assert read_whole(str(path), stamp._replace(size=1)) is Busy.CHANGING
    with open(path, "a"):
        assert read_whole(str(path), stamp) is Busy.OPEN_FOR_WRITING


def test_a_writer_that_comes_while_we_ask_does_no_harm(tmp_path):
    """The kernel signals whoever holds a lease when a writer comes; the signal must not be one that ends us."""
    path = tmp_path / "a.yaml"
    write(path, service("a"))
    got = []
    before = {s: signal.signal(s, lambda number, _: got.append(number)) for s in (signal.SIGIO, signal.SIGURG)}
    try:
        real = fcntl.fcntl

        def slow(fd, command, argument):
            if command == fcntl.F_SETLEASE and argument == fcntl.F_UNLCK:
                writer = subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'a')"])
                while not got and writer.poll() is None:
                    time.sleep(0.01)
                result = real(fd, command, argument)
                assert writer.wait() == 0
                return result
            return real(fd, command, argument)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ipvsagent.sources.files.fcntl.fcntl", slow)
            read_whole(str(path), Stamp.of(os.stat(path)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(got) == {signal.SIGURG}
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def test_run_sends_to_the_inbox_until_it_is_stopped(tmp_path):
    write(tmp_path / "a.yaml", service("a"))
    inbox, stop = Inbox(), threading.Event()
    thread = threading.Thread(target=ManifestSource([tmp_path]).run, args=(inbox, stop))
    thread.start()
    try:
        (first,) = inbox.take(10)
        assert isinstance(first, Changes)
        assert first.synced
        write(tmp_path / ".b", service("b"))
        os.rename(tmp_path / ".b", tmp_path / "b.yaml")
        (second,) = inbox.take(10)
        assert [item.name for item in second.upserts] == ["b"]
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def scanning(monkeypatch, tmp_path, *seconds):
    """A source that has scanned so many times, each in so many seconds."""
    clock = [0.0]

    def list_files_slowly(roots):
        clock[0] += next(left)
        return list_files(roots)

    left = iter(seconds)
    monkeypatch.setattr(manifests.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(manifests, "list_files", list_files_slowly)
    source = ManifestSource([tmp_path])
    for now in range(len(seconds)):
        source.poll(float(now))
    return source


def test_scanning_many_files_slows_down(monkeypatch, tmp_path):
    assert scanning(monkeypatch, tmp_path, *[0.004] * 5).interval == pytest.approx(2.0)
    assert scanning(monkeypatch, tmp_path, *[0.5] * 5).interval == 10.0


def test_one_slow_scan_slows_nothing_down(monkeypatch, tmp_path):
    """The first of a start is one, as nothing is cached; a change right after it would be seen much too late."""
    for seconds in ([], [0.5], [0.5, 0.5, 0.5, 0.5], [0.5, 0.0001, 0.5, 0.5, 0.5]):
        assert scanning(monkeypatch, tmp_path, *seconds).interval == 0.2


@pytest.mark.parametrize("explicit", [False, True], ids=["json", "yaml"])
def test_what_kubectl_get_watch_printed(tmp_path, explicit):
    """`kubectl get -w -o json` prints one object after the other, `-o yaml` one document after the other."""
    versions = [service("a", 80), service("b", 81), service("a", 82), service("a", 83)]
    path = tmp_path / ("watched.yaml" if explicit else "watched.json")
    if explicit:
        path.write_text("".join(f"---\n{yaml.safe_dump(each)}" for each in versions))
        age(path)
    else:
        write(path, *versions)
    watcher = Watcher(path)
    assert watcher.poll() == {"a": 83, "b": 81}
    assert watcher.says == [f"{path}: Service default/a: this file holds it 3 times; the last one counts"]


def test_files_that_are_something_else_are_named_with_what_to_do(tmp_path):
    (tmp_path / "a.yaml").write_bytes(gzip.compress(json.dumps(service("a")).encode()))
    write(tmp_path / "b.json", {"type": "ADDED", "object": service("b")})
    write(tmp_path / "c.json", service("c"))
    age(tmp_path / "a.yaml")
    watcher = Watcher(tmp_path)
    assert watcher.poll() == {"c": 80}
    assert watcher.says == [
        f"{tmp_path}/a.yaml: it is compressed with gzip; unpack it, as `gzip -d` does; nothing is removed until it can "
        "be read",
        f"{tmp_path}/b.json: it holds the events of a watch, not objects; use what `kubectl get` prints with -o yaml "
        "or -o json, without --output-watch-events and --raw; nothing is removed until it can be read",
    ]
