"""Clients that others wrote, on the double: the official one, lightkube, and kubectl where there is one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightkube
import pytest
from kubernetes import client, config, watch
from lightkube.core.exceptions import ApiError
from lightkube.models.core_v1 import ServicePort, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node, Service
from lightkube.resources.discovery_v1 import EndpointSlice

from integration.apiserver import Access, ApiServer, load
from tests.support.api_server import api_server

CHECKOUT = Path(__file__).parents[2]
OBJECTS = [CHECKOUT / "integration" / "demo", CHECKOUT / "tests" / "data"]
COUNTS = {"Service": 32, "EndpointSlice": 25, "Node": 3}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server(access=Access({"a-token": "admin"}, required=True)) as server:
        load(server.store, OBJECTS)
        yield server


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    return server.write_kubeconfig(tmp_path / "kubeconfig")


class TestOfficialClient:
    @pytest.fixture
    def api(self, kubeconfig: Path) -> client.ApiClient:
        return config.new_client_from_config(str(kubeconfig))

    def test_lists_and_pages(self, server: ApiServer, api: client.ApiClient) -> None:
        core = client.CoreV1Api(api)
        whole = core.list_service_for_all_namespaces()
        names, proceed = [], None
        while True:
            page = core.list_service_for_all_namespaces(limit=5, _continue=proceed)
            names += [item.metadata.name for item in page.items]
            proceed = page.metadata._continue
            if not proceed:
                break
        assert names == [item.metadata.name for item in whole.items] and len(names) > 20
        slices = client.DiscoveryV1Api(api).list_endpoint_slice_for_all_namespaces()
        assert len(slices.items) > 20 and any(piece.endpoints for piece in slices.items)
        assert core.list_node().items[0].status.addresses

    def test_watch(self, server: ApiServer, api: client.ApiClient) -> None:
        core = client.CoreV1Api(api)
        version = core.list_namespaced_service("default").metadata.resource_version
        core.create_namespaced_service("default", {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}})
        core.patch_namespaced_service("a", "default", {"metadata": {"labels": {"x": "1"}}})
        core.delete_namespaced_service("a", "default")
        events = watch.Watch().stream(
            core.list_namespaced_service, "default", resource_version=version, timeout_seconds=1
        )
        seen = [(event["type"], event["object"].metadata.labels) for event in events]
        assert seen == [("ADDED", None), ("MODIFIED", {"x": "1"}), ("DELETED", {"x": "1"})]

    def test_watch_from_a_forgotten_version(self, server: ApiServer, api: client.ApiClient) -> None:
        server.store.compact()
        core = client.CoreV1Api(api)
        with pytest.raises(client.ApiException) as error:
            list(watch.Watch().stream(core.list_namespaced_service, "default", resource_version="1"))
        assert (error.value.status, error.value.reason.partition(":")[0]) == (410, "Expired")

    def test_conflict(self, api: client.ApiClient) -> None:
        core = client.CoreV1Api(api)
        made = core.create_namespaced_config_map("default", {"metadata": {"name": "a"}, "data": {"x": "1"}})
        core.patch_namespaced_config_map("a", "default", {"data": {"x": "2"}})
        with pytest.raises(client.ApiException) as error:
            core.replace_namespaced_config_map("a", "default", made)
        assert error.value.status == 409

    def test_discovery(self, api: client.ApiClient) -> None:
        assert client.VersionApi(api).get_code().major == "1"
        assert {group.name for group in client.ApisApi(api).get_api_versions().groups} >= {"discovery.k8s.io"}
        resources = client.CoreV1Api(api).get_api_resources().resources
        assert {"services", "nodes", "services/status"} <= {resource.name for resource in resources}


class TestLightkube:
    @pytest.fixture
    def api(self, kubeconfig: Path) -> lightkube.Client:
        return lightkube.Client(lightkube.KubeConfig.from_file(kubeconfig), field_manager="test")

    def test_lists(self, server: ApiServer, api: lightkube.Client) -> None:
        assert len(list(api.list(Service, namespace="*", chunk_size=7))) == len(list(api.list(Service, namespace="*")))
        assert all(piece.addressType for piece in api.list(EndpointSlice, namespace="*"))
        nodes = list(api.list(Node, fields={"metadata.name": "node-1"}))
        assert [node.metadata.name for node in nodes if node.metadata] == ["node-1"]

    def test_watch(self, server: ApiServer, api: lightkube.Client) -> None:
        made = Service(
            metadata=ObjectMeta(name="a", namespace="default", labels={"app": "a"}),
            spec=ServiceSpec(ports=[ServicePort(port=80)]),
        )
        version = api.get(Service, "kubernetes", namespace="default").metadata.resourceVersion
        api.create(made)
        api.patch(Service, "a", {"metadata": {"labels": {"app": None}}}, namespace="default")
        events = api.watch(Service, namespace="default", labels={"app": "a"}, resource_version=version)
        assert [next(events)[0] for _ in range(2)] == ["ADDED", "DELETED"]
        api.delete(Service, "a", namespace="default")
        with pytest.raises(ApiError) as error:
            api.get(Service, "a", namespace="default")
        assert error.value.status.code == 404

    def test_server_side_apply(self, api: lightkube.Client) -> None:
        wanted = Service(
            apiVersion="v1",
            kind="Service",
            metadata=ObjectMeta(name="a", namespace="default"),
            spec=ServiceSpec(ports=[ServicePort(port=80, targetPort=8080)]),
        )
        made = api.apply(wanted)
        assert made.spec and made.spec.clusterIP and made.spec.ports and made.spec.ports[0].protocol == "TCP"
        again = api.apply(wanted)
        assert made.metadata and again.metadata and made.metadata.resourceVersion == again.metadata.resourceVersion


@pytest.mark.only_where(shutil.which("kubectl") is not None)
class TestKubectl:
    @pytest.fixture
    def kubectl(self, kubeconfig: Path) -> Any:
        def run(*words: str, stdin: str = "", code: int = 0) -> str:
            argv = ["kubectl", "--kubeconfig", str(kubeconfig), f"--cache-dir={kubeconfig.parent}", *words]
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
            assert done.returncode == code, f"{words}: {done.returncode} {done.stderr} {done.stdout}"
            return done.stdout + done.stderr

        return run

    def test_get(self, kubectl: Any) -> None:
        table = kubectl("get", "svc", "-n", "online-boutique").splitlines()
        assert table[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
        assert next(line.split()[:-1] for line in table if line.startswith("adservice ")) == [
            "adservice",
            "ClusterIP",
            "10.96.16.13",
            "<none>",
            "9555/TCP",
        ]
        things = json.loads(kubectl("get", "endpointslices,services,nodes", "-A", "-o", "json"))["items"]
        assert {thing["kind"] for thing in things} == {"Service", "EndpointSlice", "Node"}
        assert "node-1" in kubectl("get", "no")
        assert "adservice" in kubectl("describe", "service", "adservice", "-n", "online-boutique")

    def test_apply_edits_and_delete(self, kubectl: Any, server: ApiServer) -> None:
        thing = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {"ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]},
        }
        assert "service/a created" in kubectl("apply", "-f", "-", stdin=json.dumps(thing))
        assert "service/a unchanged" in kubectl("apply", "-f", "-", stdin=json.dumps(thing))
        thing["spec"] = {"ports": [{"name": "y", "port": 81, "targetPort": 8081}]}
        assert "service/a configured" in kubectl("apply", "-f", "-", stdin=json.dumps(thing))
        ports = server.get("Service", "default", "a")["spec"]["ports"]
        assert [(port["name"], port["targetPort"]) for port in ports] == [("y", 8081)]
        kubectl("annotate", "service", "a", "ipvsagent.io/scheduler=sh")
        kubectl("label", "service", "a", "app=a")
        metadata = server.get("Service", "default", "a")["metadata"]
        assert metadata["annotations"]["ipvsagent.io/scheduler"] == "sh" and metadata["labels"] == {"app": "a"}
        assert '"a" deleted' in kubectl("delete", "service", "a")
        assert 'services "a" not found' in kubectl("get", "service", "a", code=1)

    def test_watch(self, kubectl: Any, kubeconfig: Path, server: ApiServer) -> None:
        argv = ["kubectl", "--kubeconfig", str(kubeconfig), "get", "configmaps", "-w", "--no-headers"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout
            for name in "ab":
                server.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
                assert watching.stdout.readline().split() == [name, "<unknown>"]
            watching.terminate()


def test_command_line(tmp_path: Path) -> None:
    kubeconfig, faults = tmp_path / "kubeconfig", tmp_path / "faults.json"
    faults.write_text('[{"fault": "status", "code": 500, "verb": "list"}]')
    argv = [sys.executable, "-m", "integration.apiserver", "--listen", "127.0.0.1:0", "--kubeconfig", str(kubeconfig)]
    argv += ["--faults", str(faults), str(OBJECTS[0])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout
        said = process.stdout.readline()
        assert said.startswith("serving ") and str(kubeconfig) in said
        core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
        with pytest.raises(client.ApiException):
            core.list_node()
        assert len(core.list_node().items) == COUNTS["Node"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_command_line_refuses(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "integration.apiserver", "--listen", "127.0.0.1:0", str(tmp_path / "missing.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("apiserver: ") and "missing.yaml" in done.stderr and "Traceback" not in done.stderr
