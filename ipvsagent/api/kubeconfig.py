"""Reads a kubeconfig and runs the credential plugins that it names.

The official client does the reading. This module corrects some of its behaviour, as of version 37.0.2: it reads
`tokenFile` only once, keeps the line end of a token, waits for a plugin or an identity provider without limit, logs the
failure of a plugin and continues as system:anonymous, and accepts a cluster without a server.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PLUGIN_TIMEOUT = 30.0
_TLS = (
    *("certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"),
    *("client-certificate", "client-certificate-data"),
)
"""What makes an address without a scheme one of https (defaultServerUrlFor, client-go/rest/url_utils.go)."""


def load_kubeconfig(
    files: str, configuration: Any, *, server_known: bool = False, ask: bool = True
) -> Callable[[], bool] | None:
    """Fill in a client's Configuration.

    files: paths separated by `:`. server_known: the files need not name a server. ask: run plugins and identity
    providers; otherwise everything else is read. Return a function that reports whether the plugin's credentials have
    expired, None without a plugin. Raises ConfigException, OSError, ValueError and what the client's code may raise.
    """
    import yaml
    from kubernetes.config import ConfigException
    from kubernetes.config.exec_provider import ExecProvider
    from kubernetes.config.kube_config import FileOrData, KubeConfigLoader, KubeConfigMerger, _is_expired

    class Loader(KubeConfigLoader):  # type: ignore[misc]
        expiry: Any = None

        def _load_user_token(self) -> bool:
            """Prefer the file to the token beside it, as kubectl does."""
            user = self._user
            path = user.safe_get("tokenFile")
            token = Path(self._get_base_path(user.path), path).read_text() if path else user.safe_get("token")
            if path and not token.strip():
                raise ConfigException(f"{path} is empty")
            if token:
                self.token = f"Bearer {token.strip()}"
            return bool(token)

        def _load_auth_provider_token(self) -> Any:
            return super()._load_auth_provider_token() if ask else "auth-provider" in self._user

        def _refresh_oidc(self, provider: Any) -> None:
            _within_limit(lambda: super(Loader, self)._refresh_oidc(provider), "the identity provider")

        def _load_from_exec_plugin(self) -> bool:
            if "exec" not in self._user:
                return False
            if not ask:
                return True
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
    if not server_known and not loader._cluster.safe_get("server"):
        raise ConfigException(f"the cluster of its context {loader.current_context['name']} has no server")
    cluster = loader._cluster.value
    if cluster.get("server") and "://" not in cluster["server"]:
        user = loader._user.value if loader._user is not None else {}
        tls = [name for name in _TLS if cluster.get(name) or user.get(name)]
        cluster["server"] = f"{'https' if tls else 'http'}://{cluster['server']}"
    loader.load_and_set(configuration)
    configuration.refresh_api_key_hook = None
    if "proxy-url" in loader._cluster:
        configuration.no_proxy = None  # this proxy is the cluster's own, so no address is exempt from it
    plugin = loader._user is not None and "exec" in loader._user
    return (lambda: bool(loader.expiry) and _is_expired(loader.expiry)) if plugin else None


def _within_limit(work: Callable[[], None], who: str) -> None:
    """Do the work in a thread, which is abandoned at the limit. Raises ConfigException, and what `work` raises."""
    from kubernetes.config import ConfigException

    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=who, daemon=True)
    thread.start()
    thread.join(PLUGIN_TIMEOUT)
    if thread.is_alive():
        raise ConfigException(f"{who} did not answer within {PLUGIN_TIMEOUT:.0f} s")
    if raised:
        raise raised[0]


def _ask_plugin(provider: Any) -> dict[str, Any]:
    """Run a plugin as the client's ExecProvider does, but with a time limit and without a terminal.

    Return the status of the ExecCredential. Raises ConfigException, OSError.
    """
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
        # Only the last line: plugins also print what they were given.
        last = "".join(each for each in lines[-1] if each.isprintable())[:200] if lines else ""
        raise ConfigException(f"exec: process returned {process.returncode}" + (f". {last}" if last else ""))
    try:
        answer = json.loads(output)
    except ValueError as error:
        raise ConfigException(f"exec: the plugin's output is not JSON: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("status"), dict):
        raise ConfigException("exec: the plugin's output is not an ExecCredential with a status")
    if answer.get("apiVersion") != provider.api_version:
        raise ConfigException(f"exec: plugin api version {answer.get('apiVersion')} is not {provider.api_version}")
    status: dict[str, Any] = answer["status"]
    return status


def _time_of(text: Any) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(
            f"the plugin's expirationTimestamp {text!r} is not a time such as 2030-01-31T12:00:00Z"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
