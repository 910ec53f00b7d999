"""What remains of a set of manifest files when files are broken, moved, doubled and emptied."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.cluster.manifest_set import ManifestSet
from ipvsagent.cluster.manifests import Unreadable, read_manifest
from ipvsagent.cluster.objects import BlindSpots, ServiceKey
from ipvsagent.cluster.table import ServiceTable


def service(name, port=80, **more):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}], **more},
    }


def piece(name, of, **more):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        **more,
    }


def content(*objects):
    return read_manifest("".join(map(json.dumps, objects)).encode())


BROKEN = Unreadable("it is not YAML: line 3")


class Cluster:
    """What a reader of the set's updates knows."""

    def __init__(self, **options):
        self.set = ManifestSet(**options)
        self.ports = {}
        self.blind = None
        self.findings = {}
        self.last = None

    def take(self, **files):
        for name, held in files.items():
            if held is None:
                self.set.remove(name)
            else:
                self.set.replace(name, held)
        self.last = self.set.take()
        changes = self.last.changes
        for item in changes.upserts:
            name = item.name
            assert item != self.ports.get(item.key), "an equal object was reported"
            self.ports[item.key] = item
        for key in changes.removals:
            del self.ports[key]
        self.blind = changes.blind or self.blind
        self.findings.update(self.last.findings)
        return self

    @property
    def has(self):
        """name -> port of a Service, 0 for a slice."""
        return {
            key.name: item.ports[0].port if key.kind == "Service" else 0 for key, item in sorted(self.ports.items())
        }

    @property
    def says(self):
        return [str(finding) for name in sorted(self.findings) for finding in self.findings[name]]


def test_only_differences_are_reported():
    cluster = Cluster().take(f=content(service("a"), service("b")))
    assert [item.name for item in cluster.last.changes.upserts] == ["a", "b"]
    assert cluster.take(f=content(service("a", labels={}), service("b", 81))).has == {"a": 80, "b": 81}
    assert [item.name for item in cluster.last.changes.upserts] == ["b"]
    assert cluster.take().last.is_empty
    assert cluster.take(f=content(service("b", 81))).has == {"b": 81}
    assert [str(key) for key in cluster.last.changes.removals] == ["Service shop/a"]


def test_an_object_that_moves_is_never_gone():
    cluster = Cluster().take(f=content(service("a")), g=content(service("b")))
    cluster.take(f=None, h=content(service("a")))
    assert cluster.last.changes.removals == ()
    assert cluster.last.changes.upserts == ()


def test_the_last_accepted_version_of_a_broken_object_stays():
    cluster = Cluster().take(f=content(service("a"), service("b")))
    cluster.take(f=content(service("a", 0), service("b", 81)))
    assert cluster.has == {"a": 80, "b": 81}
    assert cluster.says == [
        "f: Service shop/a spec.ports[0].port: 0 is not in the range 1 to 65535; its last accepted version stays in use"
    ]
    assert cluster.blind == BlindSpots()
    assert cluster.take(f=content(service("a", 82), service("b", 81))).has == {"a": 82, "b": 81}
    assert cluster.says == []


def test_a_broken_object_that_is_taken_out_of_its_file_is_gone():
    cluster = Cluster().take(f=content(service("a"), service("b")))
    cluster.take(f=content(service("a", 0), service("b")))
    assert cluster.take(f=content(service("b"))).has == {"b": 80}


def test_an_object_whose_name_was_spoilt_stays():
    cluster = Cluster().take(f=content(service("a"), service("b"), piece("p", "a")))
    cluster.take(f=content(service("A!"), service("b")))
    assert cluster.has == {"a": 80, "b": 80}
    assert cluster.says == [
        "f: Service without a usable name metadata.name: 'A!' is not a name, which has lower-case letters, digits, "
        "'-' and '.' only; until this is fixed, no Service that vanishes is removed: it may be this one"
    ]
    assert cluster.blind == BlindSpots()


def test_an_unreadable_file_keeps_all_it_held():
    cluster = Cluster().take(f=content(service("a"), service("b")))
    cluster.take(f=BROKEN)
    assert cluster.has == {"a": 80, "b": 80}
    assert cluster.says == ["f: it is not YAML: line 3; what it held before (2 objects) stays in use"]
    assert cluster.blind == BlindSpots()
    assert cluster.take(f=content(service("a"))).has == {"a": 80}
    assert cluster.says == []


def test_an_unreadable_file_that_is_deleted_is_gone():
    cluster = Cluster().take(f=content(service("a")), g=content(service("b")))
    assert cluster.take(f=BROKEN).take(f=None).has == {"b": 80}
    assert cluster.says == []


def test_a_file_that_was_never_read_may_hold_anything():
    cluster = Cluster().take(f=BROKEN, g=content(service("a"), service("b")))
    assert cluster.blind == BlindSpots(anything=True)
    assert cluster.says == ["f: it is not YAML: line 3; nothing is removed until it can be read"]
    assert cluster.take(g=content(service("a"))).has == {"a": 80, "b": 80}
    assert cluster.says[0] == "Service shop/b: is gone, but kept until f can be read without errors"
    assert cluster.take(f=content(service("c"))).has == {"a": 80, "c": 80}
    assert cluster.blind == BlindSpots()
    assert cluster.says == []


def test_what_vanishes_while_a_known_file_is_unreadable_may_have_moved_there():
    cluster = Cluster().take(f=content(service("a")), g=content(service("b"), service("d")))
    cluster.take(f=BROKEN)
    assert cluster.take(g=content(service("c"))).has == {"a": 80, "b": 80, "c": 80, "d": 80}
    assert cluster.says[0] == "Service shop/b and 1 more: is gone, but kept until f can be read without errors"
    cluster.take(f=content(service("a"), service("b", 81)))
    assert cluster.has == {"a": 80, "b": 81, "c": 80}


@pytest.mark.parametrize(
    ("broken", "blind", "kept"),
    [
        (service("x", 0), BlindSpots(services=True), {"a": 80, "p": 0}),
        (piece("x", "a", ports=5), BlindSpots(endpoints=frozenset({ServiceKey("shop", "a")})), {"p": 0}),
        (piece("x", "b", ports=5), BlindSpots(endpoints=frozenset({ServiceKey("shop", "b")})), {}),
        (piece("x", "", ports=5), BlindSpots(anything=True), {"a": 80, "p": 0}),
        ({"apiVersion": "v1", "kind": "Node", "metadata": {}}, BlindSpots(), {}),
    ],
)
def test_a_broken_object_that_was_never_accepted(broken, blind, kept):
    cluster = Cluster().take(f=content(service("a"), piece("p", "a")), g=content(broken), h=content(service("z")))
    assert cluster.blind == blind
    assert cluster.take(f=content()).has == {**kept, "z": 80}
    assert cluster.take(g=content()).has == {"z": 80}
    assert cluster.blind == BlindSpots()


def test_a_service_that_moves_and_breaks_on_the_way_stays():
    cluster = Cluster().take(f=content(service("a"), service("b")))
    cluster.take(f=content(service("b")), g=content(service("a", 0)))
    assert cluster.has == {"a": 80, "b": 80}
    assert cluster.blind == BlindSpots()
    assert cluster.take(g=content()).has == {"b": 80}


def test_the_first_of_two_files_wins_and_the_other_takes_over():
    cluster = Cluster().take(g=content(service("a", 2)))
    assert cluster.take(f=content(service("a", 1))).has == {"a": 1}
    assert cluster.says == ["g: Service shop/a: f also holds it, and comes first"]
    assert cluster.findings["g"][0].kind == "duplicate-object"
    assert cluster.take(f=None).has == {"a": 2}
    assert cluster.says == []


def test_of_an_object_that_a_file_holds_several_times_the_last_counts():
    cluster = Cluster().take(f=content(service("a", 1), service("b", 7), service("a", 2), service("a", 3)))
    assert cluster.has == {"a": 3, "b": 7}
    assert cluster.says == ["f: Service shop/a: this file holds it 3 times; the last one counts"]
    cluster.take(e=content(service("a", 9)))
    assert cluster.has == {"a": 9, "b": 7}
    assert "f: Service shop/a: e also holds it, and comes first" in cluster.says


def test_the_last_version_in_a_file_may_be_broken_or_the_earlier_ones():
    cluster = Cluster().take(f=content(service("a", 1), service("a", 2), service("a", 0)))
    assert cluster.has == {"a": 2}
    assert cluster.says[1].startswith("f: Service shop/a spec.ports[0].port: 0 is not")
    assert cluster.says[1].endswith("its last accepted version stays in use")
    cluster.take(f=content(service("a", 0), service("a", 5)))
    assert (cluster.has, cluster.says) == ({"a": 5}, [])


def test_a_null_is_found_with_its_file():
    text = json.dumps({"kind": "List", "items": [service("a"), None]})
    cluster = Cluster().take(f=read_manifest(text.encode()))
    assert cluster.has == {"a": 80} and cluster.blind == BlindSpots()
    assert cluster.says == ["f: List items[1]: is null, which is not an object; it is ignored"]


def test_a_source_that_became_empty_removes_nothing():
    cluster = Cluster(subject="/etc/ipvs").take(f=content(service("a")), g=content(service("b")))
    cluster.take(f=None, g=content())
    assert cluster.has == {"a": 80, "b": 80}
    assert cluster.says == [
        "/etc/ipvs: it holds no Service, EndpointSlice or Node: nothing is removed without --allow-empty; "
        "what it held before (2 objects) stays in use"
    ]
    assert cluster.blind.anything
    assert cluster.take(h=content(service("c"))).has == {"c": 80}
    assert cluster.says == []
    assert cluster.blind == BlindSpots()


def test_a_source_that_is_empty_from_the_start_leaves_the_kernel_alone():
    cluster = Cluster(subject="/etc/ipvs").take()
    assert cluster.blind == BlindSpots(anything=True)
    assert cluster.says == [
        "/etc/ipvs: it holds no Service, EndpointSlice or Node: nothing is removed without --allow-empty"
    ]


def test_empty_on_purpose():
    cluster = Cluster(allow_empty=True).take(f=content(service("a")))
    assert cluster.take(f=None).has == {}
    assert cluster.blind == BlindSpots()
    assert cluster.says == []


def test_parts_left_out_are_found_with_their_file():
    cluster = Cluster().take(f=content(service("a", externalIPs=["bogus"])))
    assert cluster.says == ["f: Service shop/a spec.externalIPs[0]: 'bogus' is not an IP address; it is left out"]
    assert cluster.take(f=content(service("a"))).says == []


FILES = st.sampled_from("fgh")
OBJECTS = st.lists(st.builds(service, st.sampled_from("abc"), st.integers(0, 3)), max_size=4)
CONTENT = st.one_of(st.none(), st.just(BROKEN), OBJECTS.map(lambda objects: content(*objects)))
WHOLE = st.lists(st.builds(service, st.sampled_from("abc"), st.integers(1, 3)), max_size=4).map(
    lambda objects: content(*objects)
)


@given(
    st.lists(st.dictionaries(FILES, CONTENT, max_size=3), max_size=8),
    st.dictionaries(FILES, WHOLE),
    st.booleans(),
)
def test_only_what_the_files_hold_now_counts(history, final, allow_empty):
    """Whatever happened before: once every file is whole, the set is as if it had been read for the first time."""
    travelled, fresh = Cluster(allow_empty=allow_empty), Cluster(allow_empty=allow_empty)
    for step in history:
        travelled.take(**step)
    before = travelled.has
    travelled.take(**{name: final.get(name) for name in "fgh"})
    fresh.take(**final)
    if fresh.has or allow_empty:
        assert travelled.has == fresh.has
        assert travelled.says == fresh.says
    else:
        assert travelled.has == before
    assert travelled.blind == fresh.blind


@given(st.lists(st.dictionaries(FILES, CONTENT, max_size=3), max_size=8))
def test_updates_fit_the_service_table(history):
    manifests, table = ManifestSet(), ServiceTable()
    for step in history:
        for name, held in step.items():
            manifests.remove(name) if held is None else manifests.replace(name, held)
        table.apply(manifests.take().changes)
        for name in table.services:
            assert table.services[name].ports
    manifests.take()
    assert manifests.take().is_empty
