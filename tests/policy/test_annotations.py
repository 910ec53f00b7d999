"""Schedulers, flags, weights and drain timeouts by annotation: one line per case."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.policy.annotations import ServiceOverrides, parse_weights, read_annotations, weight_of

KNOWN = {"rr", "wrr", "lc", "sh", "mh"}


def read(**annotations: str) -> ServiceOverrides:
    names = {
        "scheduler": "ipvsagent.io/scheduler",
        "flags": "ipvsagent.io/scheduler-flags",
        "weights": "ipvsagent.io/weights",
        "drain": "ipvsagent.io/drain-timeout",
        "kr_scheduler": "kube-router.io/service.scheduler",
        "kr_flags": "kube-router.io/service.schedflags",
    }
    return read_annotations("Service a/b", {names[k]: v for k, v in annotations.items()}, "rr", KNOWN.__contains__)


@pytest.mark.parametrize(
    ("annotations", "scheduler", "flags"),
    [
        ({}, "rr", 0),
        ({"scheduler": "lc"}, "lc", 0),
        ({"scheduler": " wrr "}, "wrr", 0),
        ({"scheduler": "sh"}, "sh", 0x8),
        ({"scheduler": "mh"}, "mh", 0x18),
        ({"scheduler": "sh", "flags": "sh-port, sh-fallback"}, "sh", 0x18),
        ({"scheduler": "mh", "flags": "mh-fallback"}, "mh", 0x8),
        ({"kr_scheduler": "sh"}, "sh", 0x8),
        ({"kr_scheduler": "mh", "kr_flags": "flag-1,flag-2"}, "mh", 0x18),
        ({"scheduler": "lc", "kr_scheduler": "sh"}, "lc", 0),
        ({"flags": "ops"}, "rr", 0),
    ],
)
def test_scheduler_and_flags(annotations: dict[str, str], scheduler: str, flags: int) -> None:
    overrides = read(**annotations)
    assert (overrides.scheduler, overrides.scheduler_flags, overrides.findings) == (scheduler, flags, ())


def test_one_packet() -> None:
    assert read(flags="ops").one_packet
    both = read(scheduler="sh", flags="ops,sh-port,sh-fallback")
    assert both.one_packet and both.scheduler_flags == 0x18


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({"scheduler": "nq"}, "this kernel has no IPVS scheduler 'nq'; rr is used until it has"),
        ({"scheduler": "fancy"}, "'fancy' is not an IPVS scheduler of Linux; rr is used"),
        ({"scheduler": "rr", "flags": "sh-port"}, "'sh-port' is not a flag of scheduler rr; it is ignored"),
        ({"flags": "turbo"}, "'turbo' is not a flag of scheduler rr; it is ignored"),
        ({"weights": "10.1.0.7"}, "'10.1.0.7' is not of the form"),
        ({"weights": "*=-1"}, "weight '-1' is not a whole number from 0 to 65535"),
        ({"weights": "*=65536"}, "weight '65536' is not a whole number"),
        ({"weights": "pod:x=1"}, "'pod:x' is not an IP address"),
        ({"drain": "soon"}, "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_understood_is_said_and_left_out(annotations: dict[str, str], said: str) -> None:
    overrides = read(**annotations)
    (finding,) = overrides.findings
    assert finding.reason.startswith(said)
    assert finding.field.startswith("metadata.annotations[ipvsagent.io/")
    assert (overrides.scheduler, overrides.weights, overrides.drain_timeout) == ("rr", (), None)


@pytest.mark.parametrize(("scheduler", "bits"), [("sh", 0x10), ("mh", 0x10)])
def test_hashing_without_fallback_is_done_as_asked_and_warned_of(scheduler: str, bits: int) -> None:
    overrides = read(scheduler=scheduler, flags=f"{scheduler}-port")
    assert overrides.scheduler_flags == bits
    (finding,) = overrides.findings
    assert (
        finding.reason == f"without {scheduler}-fallback, clients of a draining endpoint are refused until it is gone"
    )


def test_drain_timeout() -> None:
    assert read(drain="1m30s").drain_timeout == 90
    assert read(drain="0").drain_timeout == 0


@pytest.mark.parametrize(
    ("address", "node", "zone", "node_weight", "expected"),
    [
        ("10.1.0.7", "a", "b", 7, 0),
        ("10.1.0.8", "a", "b", 7, 10),
        ("10.1.0.8", "c", "b", 7, 5),
        ("10.1.0.8", "c", "c", 7, 2),
        ("fd00::7", "c", "c", 7, 3),
    ],
)
def test_the_first_clause_that_fits_wins(address: str, node: str, zone: str, node_weight: int, expected: int) -> None:
    weights = parse_weights("10.1.0.7=0, node:a=10, zone:b=5, fd00:0::7=3, *=2")
    assert weight_of(weights, node_weight, Address(address), node, zone) == expected


def test_without_a_fitting_clause_the_node_decides_and_then_it_is_1() -> None:
    weights = parse_weights("node:a=10")
    assert weight_of(weights, 7, Address("10.1.0.1"), "b", "") == 7
    assert weight_of(weights, None, Address("10.1.0.1"), "b", "") == 1


def test_the_kernel_is_asked_for_schedulers_of_linux_and_the_agents_own_alone() -> None:
    asked: list[str] = []

    def works(name: str) -> bool:
        asked.append(name)
        return True

    for name in ("ftp", "x" * 9999, "own", "wlc"):
        overrides = read_annotations("Service a/b", {"ipvsagent.io/scheduler": name}, "own", works)
        assert overrides.scheduler == ("wlc" if name == "wlc" else "own")
        assert not overrides.missing_scheduler and all(len(f.reason) < 200 for f in overrides.findings)
    assert asked == ["own", "wlc"]
