"""What the agent does with an API server: the double, and a real one as in test_apiserver_contract.py."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ipvsagent.api.credentials import CredentialSource
from ipvsagent.api.event_writer import EventWriter
from ipvsagent.api.transport import ApiTransport
from ipvsagent.cluster.objects import EndpointSlice
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.sources.kubernetes import ApiSource
from tests.support.api_namespace import Place, endpoint_slice
from tests.support.following import Following


def transport_to(kubeconfig: Path) -> ApiTransport:
    return ApiTransport(CredentialSource(str(kubeconfig)), {}, time.monotonic)


class Seen(Following):
    """Only what is in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        transport = transport_to(kubeconfig)
        super().__init__(ApiSource(transport, lambda: transport.server))
        self.namespace = namespace

    @property
    def here(self) -> list[tuple[str, str]]:
        """Kind and name."""
        found = [item for item in self.objects.values() if getattr(item, "namespace", "") == self.namespace]
        return sorted((type(item).__name__, item.name) for item in found)

    @property
    def endpoints(self) -> list[str]:
        slices = [item for item in self.objects.values() if isinstance(item, EndpointSlice)]
        return [e.address for s in slices if s.namespace == self.namespace for e in s.endpoints]


@pytest.fixture
def seen(kubeconfig: Path, place: Place) -> Iterator[Seen]:
    place.add("a")
    place.add("headless", clusterIP="None")
    place.add("others", {"service.kubernetes.io/service-proxy-name": "another"})
    assert place.api.call("POST", place.slices, endpoint_slice("a", "10.1.1.1")).code == 201
    following = Seen(kubeconfig, place.namespace)
    yield following
    following.close()


def test_it_lists_once_and_follows(place: Place, seen: Seen) -> None:
    both = [("EndpointSlice", "a"), ("Service", "a")]
    seen.until(lambda: seen.synced and seen.here == both)
    piece = place.api.get(f"{place.slices}/a").thing
    piece["endpoints"].append({"addresses": ["10.1.1.2"]})
    assert place.api.call("PUT", f"{place.slices}/a", piece).code == 200
    seen.until(lambda: seen.endpoints == ["10.1.1.1", "10.1.1.2"])
    taken = {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "another"}}}
    place.api.patch(f"{place.services}/a", taken)
    seen.until(lambda: seen.here == both[:1])
    place.api.patch(f"{place.services}/others", {"metadata": {"labels": None}})
    seen.until(lambda: ("Service", "others") in seen.here)
    place.api.call("DELETE", f"{place.slices}/a")
    seen.until(lambda: seen.here == [("Service", "others")])
    kinds = seen.source.view().kinds
    assert [(kind.requests, kind.lists, kind.state) for kind in kinds] == [(1, 1, "watch")] * 3
    assert not seen.says


def test_a_refused_token_is_told(kubeconfig: Path, place: Place, tmp_path: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    for user in document["users"]:
        user["user"] = {"token": "of-bad-news"}
    wrong = tmp_path / "kubeconfig"
    wrong.write_text(yaml.safe_dump(document))
    following = Seen(wrong, place.namespace)
    following.until(lambda: "401 Unauthorized" in following.says)
    following.close()
    assert not following.synced


def test_its_events_are_taken(kubeconfig: Path, place: Place) -> None:
    place.add("a")
    counted: Counter[str] = Counter()
    writer = EventWriter(transport_to(kubeconfig), "node-1", lambda outcome, n: counted.update({outcome: n}))
    writer.set_cluster_size(1)
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop,), daemon=True)
    thread.start()
    bad = Finding(FindingKind.INVALID_ANNOTATION, f"Service {place.namespace}/a", "no such scheduler", "metadata.x")
    writer.found([bad], [])
    end = time.monotonic() + 10
    while not counted["created"]:
        assert time.monotonic() < end, counted
        time.sleep(0.05)
    stop.set()
    writer.found([], [bad])
    thread.join(5)
    path = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"
    (event,) = place.api.get(path).thing["items"]
    assert event["regarding"]["uid"] == place.api.get(f"{place.services}/a").thing["metadata"]["uid"]
    assert (event["note"], event["reason"]) == ("metadata.x: no such scheduler", "InvalidAnnotation")
