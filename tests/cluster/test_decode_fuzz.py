"""Nothing that an object or a file may contain raises an exception."""

import json
import typing

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ipvsagent.address import pack, unpack, why_not_reachable
from ipvsagent.cluster import wire
from ipvsagent.cluster.decode import API_VERSIONS, Accepted, decode_json, decode_plain
from ipvsagent.cluster.fields import why_not_ordinary
from ipvsagent.cluster.manifests import Content, Unreadable, read_manifest

WORDS = """10.0.0.1 fd00::1 ::ffff:1.2.3.4 127.0.0.1 1.2.3.4%eth0 10.0.0.0/8 None TCP IPv4 Local ClientIP LoadBalancer
a 2024-01-01T00:00:00Z 2024-13-41T00:00:00Z 0000-01-01T00:00:00Z InternalIP kubernetes.io/service-name ipvsagent.io/x
\0 \ud800"""
TEXT = st.text(max_size=8) | st.sampled_from(WORDS.split())
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, 1, 80, 65536, 10**400]), st.floats(), TEXT
)
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def shaped(struct):
    """Objects that look like the struct: any of its fields may be left out, and any value may be anything."""
    fields = {name: st.one_of(_shape(kind), ANYTHING) for name, kind in _fields(struct).items()}
    return st.fixed_dictionaries({}, optional=fields)


def _fields(struct):
    return typing.get_type_hints(struct)


def _shape(kind):
    options = [_shape(each) for each in typing.get_args(kind) if each not in (type(None), Ellipsis)]
    origin = typing.get_origin(kind)
    if origin is tuple:
        return st.lists(options[0], max_size=3)
    if origin is dict:
        return st.dictionaries(TEXT, TEXT, max_size=3)
    if options:
        return st.one_of(options)
    if kind in (str, int, bool):
        return {str: TEXT, int: st.integers(-1, 70000), bool: st.booleans()}[kind]
    return shaped(kind) if hasattr(kind, "__struct_fields__") else st.none()


@pytest.mark.parametrize("kind", API_VERSIONS)
@given(data=st.data())
def test_decoding_never_raises(kind, data):
    plain = data.draw(shaped(getattr(wire, kind)) | ANYTHING)
    from_plain = decode_plain(kind, plain)
    raw = json.dumps(plain).encode(errors="surrogatepass")
    from_json = decode_json(kind, raw)
    assert from_json.key.kind == from_plain.key.kind == kind
    if isinstance(from_plain, Accepted) and isinstance(from_json, Accepted):
        assert from_plain == from_json


@given(st.binary() | st.text().map(str.encode))
def test_reading_bytes_never_raises(text):
    assert isinstance(read_manifest(text), Content | Unreadable)
    assert isinstance(read_manifest(text, only_json=True), Content | Unreadable)


YAML_BITS = """kind:_Service| apiVersion:_v1| --- | -_ |__|metadata:_{name:_a}| spec:| { } [ ] &a_ *a <<:_ x:_ 5 ~ ' "
!x_ !!int_ !!bool_ !!timestamp_ !!set_ !!omap_ !!binary_ !!float_ !!pairs_ ?_ :_ || items:_ kind:_List| %YAML_1.1|"""
YAML_BITS = [bit.replace("_", " ").replace("|", "\n") for bit in YAML_BITS.split()]


@given(st.lists(st.sampled_from(YAML_BITS), max_size=12))
def test_reading_yaml_never_raises(bits):
    assert isinstance(read_manifest("".join(bits).encode()), Content | Unreadable)


@given(ANYTHING)
def test_reading_what_was_dumped_never_raises(plain):
    for dump in (json.dumps(plain), yaml.safe_dump(plain)):
        read_manifest(dump.encode(errors="replace"))


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_the_quick_look_at_an_address_agrees_with_the_thorough_one(packed):
    address = unpack(packed)
    assert pack(address) == packed
    assert why_not_ordinary(address) == why_not_reachable(address)


@pytest.mark.parametrize(
    "address",
    ["::", "::1", "::ffff:1.2.3.4", "fe80::1", "febf::1", "ff02::1", "255.255.255.255", "0.0.0.0", "239.1.1.1"],
)
def test_special_addresses(address):
    assert why_not_ordinary(address) == why_not_reachable(address) is not None
