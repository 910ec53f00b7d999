"""What schemas cannot say of the manifests: that their parts fit each other, and fit the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.manifests import MANIFESTS, VARIANTS, Object, rendered
from ipvsagent import __version__
from ipvsagent.api.resources import RESOURCES
from ipvsagent.config import Config, resolve

KUBEADM = Path(__file__).parents[1] / "config" / "files" / "kubeadm.yaml"
PER_VARIANT = pytest.mark.parametrize("variant", VARIANTS)


def only(variant: str, kind: str) -> Object:
    (item,) = (item for item in rendered(MANIFESTS / variant) if item["kind"] == kind)
    return item


def pod_of(variant: str) -> dict[str, Any]:
    spec: dict[str, Any] = only(variant, "DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers(variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one that prepares the node and the one that stays."""
    pod = pod_of(variant)
    (init,), (main,) = pod["initContainers"], pod["containers"]
    return init, main


def kubeadms(name: str) -> dict[str, str]:
    found = (d for d in yaml.safe_load_all(KUBEADM.read_text()) if d["metadata"]["name"] == name)
    data: dict[str, str] = next(found)["data"]
    return data


def config_of(variant: str, container: dict[str, Any]) -> Config:
    """What a container's agent makes of its --config files, read through its mounts."""
    maps = {"ipvsagent": only(variant, "ConfigMap")["data"], "kube-proxy": kubeadms("kube-proxy")}
    volumes = {v["name"]: v["configMap"]["name"] for v in pod_of(variant)["volumes"] if "configMap" in v}
    places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    files = {}
    for argument in container["args"]:
        if argument.startswith("--config="):
            path = Path(argument.removeprefix("--config="))
            files[str(path)] = maps[volumes[places[str(path.parent)]]][path.name].encode()
    assert files
    resolved = resolve({}, files)
    assert not resolved.problems
    return resolved.required()


@PER_VARIANT
def test_the_selector_finds_the_pods(variant: str) -> None:
    spec = only(variant, "DaemonSet")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@PER_VARIANT
def test_names_that_refer_to_each_other(variant: str) -> None:
    account, binding = only(variant, "ServiceAccount"), only(variant, "ClusterRoleBinding")
    assert pod_of(variant)["serviceAccountName"] == account["metadata"]["name"]
    subject = {"kind": "ServiceAccount", **{k: account["metadata"][k] for k in ("name", "namespace")}}
    assert binding["subjects"] == [subject]
    assert binding["roleRef"]["name"] == only(variant, "ClusterRole")["metadata"]["name"]
    volumes = {volume["name"] for volume in pod_of(variant)["volumes"]}
    mounts = {mount["name"] for container in containers(variant) for mount in container["volumeMounts"]}
    assert mounts == volumes
    data = only(variant, "ConfigMap")["data"]
    for container in containers(variant):
        for variable in container["env"]:
            source = variable["valueFrom"].get("configMapKeyRef")
            assert source is None or source["key"] in data


@PER_VARIANT
def test_rights_are_those_that_the_code_asks_for(variant: str) -> None:
    granted = {
        (group, resource, verb)
        for rule in only(variant, "ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = set()
    for resource in RESOURCES.values():
        match = re.fullmatch(r"/(?:api|apis/([^/]+))/v1/(\w+)", resource.path)
        assert match
        asked |= {(match[1] or "", match[2], verb) for verb in ("list", "watch")}
    asked |= {("events.k8s.io", "events", verb) for verb in ("create", "patch")}
    assert granted == asked


@PER_VARIANT
def test_what_stays_has_few_privileges(variant: str) -> None:
    init, main = containers(variant)
    context = main["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
    assert "privileged" not in context
    assert "--init-only" in init["args"] and "--init-only" not in main["args"]
    assert [word for word in init["args"] if word != "--init-only"] == main["args"]
    assert init["image"] == main["image"] == f"ipvsagent:{__version__}"


@PER_VARIANT
def test_the_version_can_be_read_from_outside(variant: str) -> None:
    daemonset = only(variant, "DaemonSet")
    for metadata in (daemonset["metadata"], daemonset["spec"]["template"]["metadata"]):
        assert metadata["labels"]["app.kubernetes.io/version"] == __version__
    containerfile = (MANIFESTS.parent / "Containerfile").read_text()
    assert f'org.opencontainers.image.version="{__version__}"' in containerfile


@PER_VARIANT
def test_what_stays_can_write_temporary_files_in_memory(variant: str) -> None:
    _, main = containers(variant)
    (name,) = (mount["name"] for mount in main["volumeMounts"] if mount["mountPath"] == "/tmp")
    (volume,) = (volume for volume in pod_of(variant)["volumes"] if volume["name"] == name)
    assert volume["emptyDir"]["medium"] == "Memory"


@PER_VARIANT
def test_a_pod_that_fails_at_its_start_is_never_available(variant: str) -> None:
    assert only(variant, "DaemonSet")["spec"]["minReadySeconds"] >= 10


@PER_VARIANT
def test_probes_ask_where_the_agent_listens(variant: str) -> None:
    _, main = containers(variant)
    config = config_of(variant, main)
    host, _, port = config.healthz_address.rpartition(":")
    assert host == "0.0.0.0"
    probes = {name: main[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {int(port)}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/healthz",
    }
    assert "ports" not in main, "a surge would find them taken"


@PER_VARIANT
def test_state_and_lock_are_the_nodes(variant: str) -> None:
    pod = pod_of(variant)
    _, main = containers(variant)
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounted = {mount["mountPath"]: hosts.get(mount["name"]) for mount in main["volumeMounts"]}
    state = str(config_of(variant, main).state_dir)
    assert mounted[state] == state and mounted["/run/xtables.lock"] == "/run/xtables.lock"
    assert pod["hostNetwork"] is True and pod["dnsPolicy"] == "Default"
    assert pod["priorityClassName"] == "system-node-critical" and pod["tolerations"] == [{"operator": "Exists"}]


def test_kubeadms_settings_count() -> None:
    config = config_of("kubeadm", containers("kubeadm")[1])
    assert config.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert "kubeconfig.conf" in kubeadms("kube-proxy")
    assert config.cluster_cidrs


@PER_VARIANT
def test_kubectl_reads_the_same(variant: str) -> None:
    """Against the reader that the other tests use; where there is no kubectl, these tests rest on that alone."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        return
    done = subprocess.run([kubectl, "kustomize", MANIFESTS / variant], capture_output=True, text=True, check=True)

    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(item["kind"], item["metadata"]["name"]): item for item in objects}

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(rendered(MANIFESTS / variant))
