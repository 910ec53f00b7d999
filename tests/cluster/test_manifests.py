"""What a manifest file may look like, and what is said about one that cannot be read."""

import gzip
from pathlib import Path

import pytest

from ipvsagent.cluster.decode import Accepted, Rejected
from ipvsagent.cluster.manifests import Content, Unreadable, read_manifest
from ipvsagent.yaml_documents import yaml_documents

DATA = Path(__file__).parent.parent / "data"
A = '{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{}}'
B = A.replace('"a"', '"b"')
YAML_A = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec: {}\n"

READABLE = [
    # text, names of its objects, how many others
    ("", [], 0),
    ("---\n# nothing\n---\n", [], 0),
    (YAML_A, ["a"], 0),
    ("\ufeff" + YAML_A, ["a"], 0),
    (f"---\n{YAML_A}---\n{YAML_A.replace('name: a', 'name: b')}", ["a", "b"], 0),
    (A, ["a"], 0),
    ("\ufeff" + A, ["a"], 0),
    (A + B, ["a", "b"], 0),
    (f"\n {A}\n\n{B}\n", ["a", "b"], 0),
    (f"{A}\n---\n{B}\n", ["a", "b"], 0),
    ("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {}}", ["a"], 0),
    (f'{{"apiVersion":"v1","kind":"List","items":[{A},{B}]}}', ["a", "b"], 0),
    (f'{{"kind":"List","items":[{A},{{"kind":"List","items":[{B}]}}]}}', ["a", "b"], 0),
    (f"kind: List\nitems: [{A}, {B}]", ["a", "b"], 0),
    ('{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"},"spec":{}}]}', ["a"], 0),
    ("apiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: a}}]", ["a"], 0),
    ("apiVersion: v1\nkind: ServiceList\nitems: null", [], 1),
    ('{"kind":"PodList","items":[{},{}]}', [], 2),
    ("kind: AllowList\nspec: {}", [], 1),
    ("kind: Deployment\n---\nkind: ConfigMap", [], 2),
    ("replicas: 3", [], 1),
    ("kind: 5", [], 1),
    ("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}", [], 1),
    ("x: &x {name: a}\napiVersion: v1\nkind: Service\nmetadata: {<<: *x, namespace: b}\nspec: {}", ["a"], 0),
    ("x: &x {name: b}\napiVersion: v1\nkind: Service\nmetadata: {<<: *x, name: a}\nspec: {}", ["a"], 0),
]


@pytest.mark.parametrize(("text", "names", "other"), READABLE)
def test_readable(text, names, other):
    content = read_manifest(text.encode())
    assert isinstance(content, Content)
    assert all(isinstance(each, Accepted) for each in content.objects)
    assert ([each.key.name for each in content.objects], content.other) == (names, other)


NULLS = [
    # text, what is said
    (f'{{"kind":"List","items":[{A}, null ,{B}]}}', ["List items[1]"]),
    (f"kind: List\nitems: [~, {A}, {B}, null]", ["List items[0]", "List items[3]"]),
    (
        "apiVersion: v1\nkind: ServiceList\n"
        "items:\n- {metadata: {name: a}, spec: {}}\n-\n- {metadata: {name: b}, spec: {}}",
        ["ServiceList items[1]"],
    ),
]


@pytest.mark.parametrize(("text", "named"), NULLS)
def test_a_null_in_a_list_costs_itself_alone(text, named):
    content = read_manifest(text.encode())
    assert [each.key.name for each in content.objects] == ["a", "b"]
    said = "is null, which is not an object; it is ignored"
    assert [str(each) for each in content.findings] == [f"{each}: {said}" for each in named]


EVENTS = "it holds the events of a watch, not objects; use what `kubectl get` prints with -o yaml or -o json"
NOT_OBJECTS = "it does not consist of Kubernetes objects"
UNREADABLE = [
    ("x", False, NOT_OBJECTS),
    ("- a", False, NOT_OBJECTS),
    (YAML_A + "---\napiVers", False, NOT_OBJECTS),
    ('{"kind":"List","items":[5]}', False, NOT_OBJECTS),
    ("kind: List\nitems: [5]", False, NOT_OBJECTS),
    ("[]", True, NOT_OBJECTS),
    (f'{{"type":"ADDED","object":{A}}}', True, EVENTS),
    (f'{{"type":"ADDED","object":{A}}}\n{{"type":"MODIFIED","object":{A}}}\n', False, EVENTS),
    (f"object: {A}\ntype: DELETED\n", False, EVENTS),
    ("\x1f", False, "it is not YAML"),
    ("kind: a\nkind: b", False, "it is not YAML: line 2: key 'kind' is set twice"),
    ("a: [1\nb", False, "it is not YAML: line 3: did not find expected ',' or ']'"),
    ("a: *b", False, "it is not YAML: line 1: found undefined alias"),
    ("a: !Ref x", False, "it is not YAML: line 1: could not determine a constructor for the tag '!Ref'"),
    ("a: !!bool maybe", False, "it is not YAML: a value does not fit its tag ('maybe')"),
    ("a: \0", False, "it is not YAML: unacceptable character #x0000"),
    ("", True, "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
    (YAML_A, True, "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
    (A + A[:-1], True, "it is not JSON: Expecting ',' delimiter"),
    ("[" * 100_000, False, "it is nested too deeply"),
    ("- " * 50_000, False, "it is nested too deeply"),
    ('{"a":' * 100_000, False, "it is nested too deeply"),
    ("&x {kind: List, items: [*x]}", False, "it is nested too deeply"),
]


@pytest.mark.parametrize(("text", "only_json", "reason"), UNREADABLE)
def test_unreadable(text, only_json, reason):
    content = read_manifest(text.encode(), only_json=only_json)
    assert isinstance(content, Unreadable)
    assert content.reason.startswith(reason)


def test_what_looks_like_an_event_is_not_always_one():
    other = '{"type":"kubernetes.io/tls","object":{}}{"type":"ADDED"}' + f'{{"type":"ADDED","object":{{}},{A[1:]}'
    content = read_manifest(other.encode())
    assert ([each.key.name for each in content.objects], content.other) == (["a"], 2)


def test_compressed():
    for only_json in (False, True):
        content = read_manifest(gzip.compress(YAML_A.encode()), only_json=only_json)
        assert content == Unreadable("it is compressed with gzip; unpack it, as `gzip -d` does")


def test_not_utf8():
    assert read_manifest(b'{"kind":"\xff"}', only_json=True).reason == "it is not UTF-8: invalid start byte at byte 0"
    assert read_manifest(b'kind: "\xff"').reason.startswith("it is not YAML: unacceptable character #x00ff")


API_VERSIONS = [
    ("kind: Service", "", "apiVersion: is missing; it must be v1"),
    ("apiVersion: v2\nkind: Service", "", "apiVersion: is v2, but only v1 is supported"),
    (
        "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\naddressType: IPv4",
        "cart",
        "apiVersion: is discovery.k8s.io/v1beta1, but only discovery.k8s.io/v1 is supported",
    ),
]


@pytest.mark.parametrize(("head", "service", "text"), API_VERSIONS)
def test_api_version_of_our_kinds(head, service, text):
    labels = "labels: {kubernetes.io/service-name: cart}"
    (rejected,) = read_manifest(f"{head}\nmetadata:\n  name: a\n  {labels}\nspec: {{}}".encode()).objects
    assert isinstance(rejected, Rejected)
    assert str(rejected.finding) == f"{rejected.key} {text}"
    assert rejected.service == service


SCALARS = [
    ("on", "on"),
    ("yes", "yes"),
    ("n", "n"),
    ("1:30", "1:30"),
    ("010", "010"),
    ("1_000", "1_000"),
    ("2024-01-01", "2024-01-01"),
    ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
    ("=", "="),
    ("1e3", "1e3"),
    ("0o17", "0o17"),
    ("10.96.0.1", "10.96.0.1"),
    ("9" * 5000, "9" * 5000),
    ("true", True),
    ("FALSE", False),
    ("~", None),
    ("", None),
    ("8080", 8080),
    ("-1", -1),
    ("0", 0),
    ("0x1F", 31),
    ("1.5", 1.5),
    ("'80'", "80"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_what_they_look_like(text, value):
    (document,) = yaml_documents(f"a: {text}")
    assert document == {"a": value}
    assert type(document["a"]) is type(value)


@pytest.mark.parametrize(("name", "count"), [("argo-cd", 24), ("ingress-nginx", 4), ("online-boutique", 28)])
def test_real_manifests_have_nothing_wrong(name, count):
    content = read_manifest((DATA / f"{name}.yaml").read_bytes())
    assert len(content.objects) == count
    assert content.other == 0
    assert [each for each in content.objects if not isinstance(each, Accepted) or each.findings] == []


def test_a_real_service():
    content = read_manifest((DATA / "ingress-nginx.yaml").read_bytes())
    services = {each.key.name: each.value for each in content.objects if each.key.kind == "Service"}
    controller = services["ingress-nginx-controller"]
    assert (controller.type, controller.cluster_ips, controller.external_local) == (
        "LoadBalancer",
        ("10.96.17.11",),
        True,
    )
    assert [(p.name, p.port, p.node_port) for p in controller.ports] == [
        ("http", 80, 30181),
        ("https", 443, 30182),
    ]
    assert [i.address for i in controller.ingress] == ["192.0.2.20"]
    assert controller.health_check_node_port == 30183
