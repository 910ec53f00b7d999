"""How the API server is reached and as whom: a kubeconfig, or what Kubernetes puts into a pod.

Everything is read again when it may have changed: every REREAD seconds, when the server does not accept it (401), and,
for what a plugin gave, when it expires. So tokens and certificates may be renewed on disk at any time, and a file that
is missing for a moment leaves the last ones in use.

The official client reads kubeconfigs. Some of its habits are corrected here, each seen in 37.0.2:
it reads `tokenFile` once and never again, keeps the line end of a token, waits for a plugin without end, and only logs
that one failed, to go on as system:anonymous.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from ipvsagent.errors import ConfigError, SourceError, StartError

REREAD = 60.0
PLUGIN_TIMEOUT = 30.0
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT, CLUSTER_IP = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT_443_TCP_ADDR"
REMEDY = (
    "Give the agent an address of the API server that needs no Service (a load balancer, a control-plane node, a proxy "
    "on this node): set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT in its pod, or give --master "
    "https://ADDRESS:6443, or --kubeconfig FILE. --allow-api-by-cluster-ip starts it all the same"
)


class Place(Struct, frozen=True):
    """Where credentials come from. kubeconfig: files separated by `:`, "" = those of the pod. master: replaces the
    server's address, "" = as it stands there."""

    kubeconfig: str = ""
    master: str = ""
    service_account: Path = SERVICE_ACCOUNT


def place_of(kubeconfig: str, master: str, environment: Mapping[str, str], *, service_account: Path) -> Place:
    """What is named; else in a pod the pod's; else kubectl's default. Raises ConfigError if there is nothing."""
    kubeconfig = kubeconfig or environment.get("KUBECONFIG", "")
    if kubeconfig:
        missing = [path for path in kubeconfig.split(":") if path and not Path(path).expanduser().exists()]
        if missing == [path for path in kubeconfig.split(":") if path]:
            raise SourceError(f"kubeconfig {kubeconfig} does not exist")
        return Place(kubeconfig, master, service_account)
    if environment.get(HOST) or (master and (service_account / "token").exists()):
        return Place("", master, service_account)
    own = Path(environment.get("HOME", "/root")) / ".kube" / "config"
    if own.exists():
        return Place(str(own), master, service_account)
    raise ConfigError(
        [
            "no source: --kubeconfig FILE says how to reach the Kubernetes API, --source PATH where files of Services, "
            f"EndpointSlices and Nodes are (this is no pod, and {own} does not exist)"
        ]
    )


def refuse_cluster_ip(place: Place, environment: Mapping[str, str]) -> None:
    """A pod is told the Service's address twice; who has set the first to something better has left the second.
    Raises StartError."""
    host = environment.get(HOST)
    if not place.kubeconfig and not place.master and host and host == environment.get(CLUSTER_IP):
        raise StartError(
            f"the API server would be reached at {host}, the cluster IP of default/kubernetes, which needs the very "
            "rules that this agent is to make",
            REMEDY,
        )


class Access(Struct, frozen=True):
    """configuration: a `kubernetes.client.Configuration`. expires: whether a plugin is to be asked again now.
    fingerprint: differs when connections must be made anew."""

    configuration: Any
    expires: Callable[[], bool]
    fingerprint: str


def load(place: Place, environment: Mapping[str, str]) -> Access:
    """Reads everything. Raises SourceError, whatever went wrong: a provider of identities that is down, a plugin, a
    file that went away meanwhile."""
    try:
        return _load(place, environment)
    except Exception as error:
        said = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        raise SourceError(f"{named(place)}: {said}") from None


def named(place: Place) -> str:
    return f"kubeconfig {place.kubeconfig}" if place.kubeconfig else "the pod's credentials"


def without_userinfo(url: str) -> str:
    """A name and a password in it are nobody's business: the address is shown in findings and in `status`."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?[^/?#]*@", r"\1", url, flags=re.IGNORECASE)


def _load(place: Place, environment: Mapping[str, str]) -> Access:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import is_socks_proxy_url

    configuration = Configuration()
    configuration.retries = False
    configuration.keep_alive = True
    expires: Callable[[], bool] = _always
    if place.kubeconfig:
        expires = _load_kubeconfig(place.kubeconfig, configuration)
    else:
        _load_pod(place, configuration, environment)
    configuration.host = without_userinfo(place.master.rstrip("/") or configuration.host)
    if configuration.proxy and "://" not in configuration.proxy:
        configuration.proxy = f"http://{configuration.proxy}"  # as Go reads HTTPS_PROXY
    if is_socks_proxy_url(configuration.proxy) and find_spec("socks") is None:
        proxy = without_userinfo(configuration.proxy)
        raise ValueError(f"proxy {proxy}: SOCKS needs the Python package PySocks, or give an HTTP proxy")
    token = configuration.api_key.get("BearerToken")
    if token:
        configuration.api_key["BearerToken"] = " ".join(token.split())
    return Access(configuration, expires, _fingerprint(configuration))


def _load_pod(place: Place, configuration: Any, environment: Mapping[str, str]) -> None:
    from kubernetes.config.incluster_config import InClusterConfigLoader

    told = {HOST: "master", PORT: "0"} if place.master else {}
    InClusterConfigLoader(
        token_filename=str(place.service_account / "token"),
        cert_filename=str(place.service_account / "ca.crt"),
        try_refresh_token=False,
        environ={**environment, **told},
    ).load_and_set(configuration)


def _load_kubeconfig(files: str, configuration: Any) -> Callable[[], bool]:
    import yaml
    from kubernetes.config import ConfigException
    from kubernetes.config.exec_provider import ExecProvider
    from kubernetes.config.kube_config import FileOrData, KubeConfigLoader, KubeConfigMerger, _is_expired

    class Loader(KubeConfigLoader):  # type: ignore[misc]
        expiry: Any = None

        def _load_user_token(self) -> bool:
            """The file wins over the token beside it, as for kubectl."""
            user = self._user
            path = user.safe_get("tokenFile")
            token = Path(self._get_base_path(user.path), path).read_text() if path else user.safe_get("token")
            if path and not token.strip():
                raise ConfigException(f"{path} is empty")
            if token:
                self.token = f"Bearer {token.strip()}"
            return bool(token)

        def _load_from_exec_plugin(self) -> bool:
            if "exec" not in self._user:
                return False
            base = self._get_base_path(self._cluster.path)
            status = _ask_plugin(ExecProvider(self._user["exec"], base, self._cluster))
            if status.get("token"):
                self.token = f"Bearer {status['token']}"
            if status.get("clientCertificateData") and status.get("clientKeyData"):
                for name, key in (("cert_file", "clientCertificateData"), ("key_file", "clientKeyData")):
                    data = FileOrData(status, None, data_key_name=key, base64_file_content=False)
                    setattr(self, name, data.as_file())
            elif not status.get("token"):
                raise ConfigException("the plugin gave neither a token nor a certificate with its key")
            self.expiry = _time_of(status.get("expirationTimestamp"))
            return True

    try:
        merged = KubeConfigMerger(files).config
    except yaml.YAMLError as error:
        raise ConfigException(f"it is not YAML: {' '.join(str(error).split())}") from None
    loader = Loader(config_dict=merged, config_base_path=None)
    loader.load_and_set(configuration)
    configuration.refresh_api_key_hook = None
    if "proxy-url" in loader._cluster:
        configuration.no_proxy = None  # that proxy is for this cluster, whatever is exempt from the others
    plugin = loader._user is not None and "exec" in loader._user
    return (lambda: bool(loader.expiry) and _is_expired(loader.expiry)) if plugin else _always


def _ask_plugin(provider: Any) -> dict[str, Any]:
    """What its `run` does, with a time limit, and never asking a person: a plugin that hangs must not hold the agent.
    provider: the client's ExecProvider. Returns the status of the ExecCredential. Raises ConfigException, OSError."""
    from kubernetes.config import ConfigException

    spec: dict[str, Any] = {"interactive": False}
    if provider.cluster:
        spec["cluster"] = dict(provider.cluster.value)
        for extension in spec["cluster"].get("extensions") or ():
            if extension["name"] == "client.authentication.k8s.io/exec":
                spec["cluster"]["config"] = extension["extension"]
                break
    asked = {"apiVersion": provider.api_version, "kind": "ExecCredential", "spec": spec}
    with subprocess.Popen(
        provider.args,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=provider.cwd,
        env={**provider.env, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        try:
            output, complaint = process.communicate(timeout=PLUGIN_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ConfigException(f"exec: {provider.args[0]} did not end within {PLUGIN_TIMEOUT:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = complaint.strip().splitlines()
        # Only its last line: plugins print what they were given, too.
        last = "".join(each for each in lines[-1] if each.isprintable())[:200] if lines else ""
        raise ConfigException(f"exec: process returned {process.returncode}" + (f". {last}" if last else ""))
    try:
        said = json.loads(output)
    except ValueError as error:
        raise ConfigException(f"exec: the plugin's output is not JSON: {error}") from None
    if not isinstance(said, dict) or not isinstance(said.get("status"), dict):
        raise ConfigException("exec: the plugin's output is no ExecCredential with a status")
    if said.get("apiVersion") != provider.api_version:
        raise ConfigException(f"exec: plugin api version {said.get('apiVersion')} is not {provider.api_version}")
    status: dict[str, Any] = said["status"]
    return status


def _time_of(text: Any) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"the plugin's expirationTimestamp {text!r} is no time as 2030-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _always() -> bool:
    return True


def _fingerprint(configuration: Any) -> str:
    parts = [configuration.host, configuration.verify_ssl, configuration.tls_server_name, configuration.proxy]
    digest = hashlib.sha256(repr((parts, configuration.no_proxy)).encode())
    for path in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file):
        if path:
            with open(path, "rb") as file:
                digest.update(file.read())
        digest.update(b"|")
    return digest.hexdigest()
