"""Finds the API server's address and our credentials, in a kubeconfig or in the files that Kubernetes puts into a pod.

They are read again every REREAD seconds, when the server rejects them (401), and when a plugin's credentials expire.
Tokens and certificates may therefore be renewed on disk at any time; while a file is missing, the last ones stay in
use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from ipvsagent.api.kubeconfig import load_kubeconfig
from ipvsagent.errors import ConfigError, SourceError, StartError

REREAD = 60.0
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT, CLUSTER_IP = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT_443_TCP_ADDR"
REMEDY = (
    "Give the agent an address of the API server that needs no Service (a load balancer, a control-plane node, a proxy "
    "on this node): set KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT in its pod, or give --master "
    "https://ADDRESS:6443, or --kubeconfig FILE. --allow-api-by-cluster-ip starts it all the same"
)


class CredentialSource(Struct, frozen=True):
    """Names where credentials come from."""

    kubeconfig: str = ""
    """Paths separated by `:`; "" = the pod's credentials."""
    master: str = ""
    """A server address that overrides the configured one, or ""."""
    service_account: Path = SERVICE_ACCOUNT


def credential_source(
    kubeconfig: str, master: str, environment: Mapping[str, str], *, service_account: Path
) -> CredentialSource:
    """Return what is named, otherwise a pod's own credentials, otherwise kubectl's default.

    Raises ConfigError if there is none of them, SourceError if a named kubeconfig does not exist.
    """
    kubeconfig = kubeconfig or environment.get("KUBECONFIG", "")
    if kubeconfig:
        missing = [path for path in kubeconfig.split(":") if path and not Path(path).expanduser().exists()]
        if missing == [path for path in kubeconfig.split(":") if path]:
            raise SourceError(f"kubeconfig {kubeconfig} does not exist")
        return CredentialSource(kubeconfig, master, service_account)
    if environment.get(HOST) or (master and (service_account / "token").exists()):
        return CredentialSource("", master, service_account)
    own = Path(environment.get("HOME", "/root")) / ".kube" / "config"
    if own.exists():
        return CredentialSource(str(own), master, service_account)
    if master:
        raise ConfigError(
            [
                f"--master {without_userinfo(master)} names the Kubernetes API, but there are no credentials for it: "
                f"give --kubeconfig FILE as well (this is not a pod, and {own} does not exist)"
            ]
        )
    raise ConfigError(
        [
            "no source: give --kubeconfig FILE for the Kubernetes API, or --source PATH for files of Services, "
            f"EndpointSlices and Nodes (this is not a pod, and {own} does not exist)"
        ]
    )


def refuse_cluster_ip(source: CredentialSource, environment: Mapping[str, str]) -> None:
    """Raise StartError in a pod whose API server address is the cluster IP of default/kubernetes.

    Kubernetes sets two variables to that address; an operator who overrides the first leaves the second as it is.
    """
    host = environment.get(HOST)
    if not source.kubeconfig and not source.master and host and host == environment.get(CLUSTER_IP):
        raise StartError(
            f"the API server would be reached at {host}, the cluster IP of default/kubernetes, which works only with "
            "the rules that this agent makes",
            REMEDY,
        )


class Access(Struct, frozen=True):
    """Holds credentials that are ready for use."""

    configuration: Any
    """A `kubernetes.client.Configuration`."""
    expires: Callable[[], bool]
    """Reports whether they must be read again now."""
    fingerprint: str
    """A value that changes when connections have to be made again."""


def load(source: CredentialSource, environment: Mapping[str, str]) -> Access:
    """Read everything. Raises SourceError for any failure: of a plugin, of an identity provider, or of a file."""
    try:
        return _load(source, environment)
    except Exception as error:
        raise SourceError(f"{named(source)}: {_in_words(error)}") from None


def require_usable(source: CredentialSource, environment: Mapping[str, str]) -> str:
    """Return the server's address, without running a plugin or asking an identity provider.

    Raises SourceError for faults that waiting does not resolve, such as a missing server or file.
    """
    try:
        return str(_load(source, environment, ask=False).configuration.host)
    except Exception as error:
        raise SourceError(f"{named(source)} cannot be used: {_in_words(error)}") from None


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__


def named(source: CredentialSource) -> str:
    return f"kubeconfig {source.kubeconfig}" if source.kubeconfig else "the pod's credentials"


def without_userinfo(url: str) -> str:
    """Return the URL without user name and password, as findings and `status` show it."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?[^/?#]*@", r"\1", url, flags=re.IGNORECASE)


def _load(source: CredentialSource, environment: Mapping[str, str], *, ask: bool = True) -> Access:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import is_socks_proxy_url

    configuration = Configuration()
    configuration.retries = False
    configuration.keep_alive = True
    expires: Callable[[], bool] = _always
    if source.kubeconfig:
        expires = (
            load_kubeconfig(source.kubeconfig, configuration, server_known=bool(source.master), ask=ask) or _always
        )
    else:
        _load_pod(source, configuration, environment)
    master = without_userinfo(source.master.rstrip("/"))
    if master and "://" not in master:
        tls = configuration.ssl_ca_cert or configuration.cert_file or not configuration.verify_ssl
        master = f"{'https' if tls else 'http'}://{master}"
    configuration.host = master or without_userinfo(configuration.host)
    if configuration.proxy and "://" not in configuration.proxy:
        configuration.proxy = f"http://{configuration.proxy}"  # as Go reads HTTPS_PROXY
    if is_socks_proxy_url(configuration.proxy) and find_spec("socks") is None:
        proxy = without_userinfo(configuration.proxy)
        raise ValueError(f"proxy {proxy}: SOCKS needs the Python package PySocks, or give an HTTP proxy")
    token = configuration.api_key.get("BearerToken")
    if token:
        configuration.api_key["BearerToken"] = " ".join(token.split())
    return Access(configuration, expires, _fingerprint(configuration))


def _load_pod(source: CredentialSource, configuration: Any, environment: Mapping[str, str]) -> None:
    from kubernetes.config.incluster_config import InClusterConfigLoader

    overridden = {HOST: "master", PORT: "0"} if source.master else {}
    InClusterConfigLoader(
        token_filename=str(source.service_account / "token"),
        cert_filename=str(source.service_account / "ca.crt"),
        try_refresh_token=False,
        environ={**environment, **overridden},
    ).load_and_set(configuration)


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
