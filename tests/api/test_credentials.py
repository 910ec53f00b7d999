"""Who we are to the API server, and how we get there: against the double with TLS and tokens, and a small proxy."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, ReadTimeoutError

from integration.apiserver import Access, ApiServer, Certificates
from ipvsagent.api import credentials
from ipvsagent.api import kubeconfig as kubeconfig_module
from ipvsagent.api import transport as transport_module
from ipvsagent.api.credentials import (
    HOST,
    PORT,
    REREAD,
    CredentialSource,
    credential_source,
    load,
    refuse_cluster_ip,
    require_usable,
)
from ipvsagent.api.resources import Request
from ipvsagent.api.response import TransportError
from ipvsagent.api.transport import ApiTransport, _in_words
from ipvsagent.errors import ConfigError, SourceError, StartError
from tests.support.clock import Clock

NODES = Request("/api/v1/nodes", (), 5.0)


@pytest.fixture(scope="module")
def certificates():
    return Certificates()


@pytest.fixture
def access():
    return Access({"one": "system:node:a"}, required=True)


@pytest.fixture
def server(certificates, access):
    with ApiServer(certificates=certificates, access=access) as made:
        yield made


class Client:
    """A transport whose clock is the test's."""

    def __init__(self, place: CredentialSource, environment=None) -> None:
        self.clock = Clock()
        self.transport = ApiTransport(place, environment or {}, self.clock)

    def ask(self, *, later: float = 0.0) -> int:
        self.clock.now += later
        response = self.transport.get(NODES)
        b"".join(response.pieces())
        response.close()
        return response.status


@pytest.fixture
def kubeconfig(tmp_path, server, certificates):
    """Writes one for a user, with what is given for the cluster."""
    (tmp_path / "ca.crt").write_bytes(certificates.authority)

    def write(user, **cluster) -> CredentialSource:
        path = tmp_path / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [
                        {"name": "c", "cluster": {"server": server.url, "certificate-authority": "ca.crt", **cluster}}
                    ],
                    "users": [{"name": "u", "user": user}],
                }
            )
        )
        return CredentialSource(str(path))

    return write


@pytest.fixture
def account(tmp_path, certificates):
    """What Kubernetes puts into a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificates.authority)
    (folder / "token").write_text("one\n")
    return folder


def pod_environment(server) -> dict[str, str]:
    host, _, port = server.url.removeprefix("https://").partition(":")
    return {HOST: host, PORT: port}


def test_a_token_file_is_read_again_every_minute(kubeconfig, access, tmp_path):
    token = tmp_path / "token"
    token.write_text("one\n")
    client = Client(kubeconfig({"tokenFile": "token", "token": "wrong"}))
    assert client.ask() == 200
    access.tokens = {"two": "system:node:a"}
    token.write_text("two\n")
    assert client.ask(later=REREAD - 1) == 401
    assert client.ask(later=1) == 200


def test_and_at_once_when_it_is_not_accepted(kubeconfig, access, tmp_path):
    token = tmp_path / "token"
    token.write_text("one")
    client = Client(kubeconfig({"tokenFile": str(token)}))
    assert client.ask() == 200
    client.clock.now += 5
    assert client.transport.renew() is False, "it is the same token"
    access.tokens = {"two": "system:node:a"}
    token.write_text("two")
    client.clock.now += 5
    assert client.transport.renew() is True
    assert client.ask() == 200


@pytest.fixture
def outdated(kubeconfig, access, tmp_path):
    """Asked with a token that is not accepted any more; its file has the next one."""
    token = tmp_path / "token"
    token.write_text("one")
    client = Client(kubeconfig({"tokenFile": str(token)}))
    assert client.ask() == 200
    access.tokens = {"two": "system:node:a"}
    token.write_text("two")
    client.clock.now += 5
    return client


def test_who_is_refused_while_another_thread_renews_waits_for_it(outdated, monkeypatch):
    reading, may_end = threading.Event(), threading.Event()

    def slowly(*words):
        reading.set()
        assert may_end.wait(10)
        return load(*words)

    monkeypatch.setattr(transport_module, "load", slowly)

    def refused():
        return outdated.ask(), outdated.transport.renew()

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        one = first.submit(refused)
        assert reading.wait(10)
        other = second.submit(refused)
        with pytest.raises(TimeoutError):
            other.result(0.5)
        may_end.set()
        assert one.result(10) == other.result(10) == (401, True)


def test_who_is_refused_after_another_thread_has_renewed_has_newer_credentials(outdated):
    """Three threads ask with one token; the second may not take what the first has just read for what it asked with."""
    with ThreadPoolExecutor(1) as other:
        assert other.submit(outdated.ask).result() == 401
        assert other.submit(outdated.transport.renew).result() is True
    assert outdated.transport.renew() is True
    assert outdated.ask() == 200
    assert outdated.transport.renew() is False


def test_a_token_file_that_is_away_for_a_moment_leaves_the_last_token(kubeconfig, access, tmp_path):
    token = tmp_path / "token"
    token.write_text("one")
    client = Client(kubeconfig({"tokenFile": str(token)}))
    assert client.ask() == 200
    token.unlink()
    assert client.ask(later=2 * REREAD) == 200
    token.write_text("")
    assert client.ask(later=2 * REREAD) == 200
    access.tokens = {"two": "system:node:a"}
    token.write_text("two")
    assert client.ask(later=2 * REREAD) == 200


def test_a_pod_is_its_service_account(server, access, account):
    client = Client(CredentialSource(service_account=account), pod_environment(server))
    assert client.ask() == 200
    access.tokens = {"two": "system:serviceaccount:kube-system:ipvsagent"}
    (account / "token").write_text("two\n")
    assert client.ask(later=REREAD) == 200
    (account / "token").unlink()
    assert client.ask(later=REREAD) == 200


def test_a_pod_may_be_told_another_address(server, account):
    assert Client(CredentialSource(master=server.url + "/", service_account=account)).ask() == 200


def test_master_replaces_the_address_of_a_kubeconfig(server, kubeconfig):
    place = kubeconfig({"token": "one"}, server="https://192.0.2.1:1")
    assert Client(CredentialSource(place.kubeconfig, server.url)).ask() == 200


def test_client_certificates_are_renewed_on_disk(kubeconfig, certificates, server, tmp_path):
    certificates.write(tmp_path, "system:node:a")
    client = Client(kubeconfig({"client-certificate": "client.crt", "client-key": "client.key"}))
    assert client.ask() == 200
    first = client.transport._client
    assert client.ask(later=REREAD) == 200 and client.transport._client is first, "the same files are the same pool"
    foreign = Certificates()
    foreign.write(tmp_path, "system:node:a")
    (tmp_path / "ca.crt").write_bytes(certificates.authority)
    with pytest.raises(TransportError):
        client.ask(later=REREAD)
    certificates.write(tmp_path, "system:node:a")
    assert client.ask(later=REREAD) == 200


def test_a_new_authority_is_taken_up(kubeconfig, access, tmp_path):
    place = kubeconfig({"token": "one"})
    good = (tmp_path / "ca.crt").read_bytes()
    (tmp_path / "ca.crt").write_bytes(Certificates().authority)
    client = Client(place)
    with pytest.raises(TransportError, match="certificate verify failed"):
        client.ask()
    (tmp_path / "ca.crt").write_bytes(good)
    assert client.ask(later=REREAD) == 200


def plugin(tmp_path: Path, expires: str = "") -> dict:
    """An exec plugin that says a token from a file, and counts how often it was asked."""
    script = tmp_path / "plugin"
    status = {"token": "TOKEN", **({"expirationTimestamp": expires} if expires else {})}
    said = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
    script.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho asked >> asked\n[ -e token ] || {{ echo no luck >&2; exit 3; }}\n"
        f"echo '{said}' | sed s/TOKEN/$(cat token)/\n"
    )
    script.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "asked").read_text().splitlines())


def test_a_plugin_is_asked_again_when_what_it_gave_expires_or_is_refused(kubeconfig, access, tmp_path):
    (tmp_path / "token").write_text("one")
    client = Client(kubeconfig(plugin(tmp_path, "2999-01-01T00:00:00Z")))
    assert client.ask() == 200 and client.ask(later=10 * REREAD) == 200 and asked(tmp_path) == 1
    access.tokens = {"two": "system:node:a"}
    (tmp_path / "token").write_text("two")
    assert client.ask() == 401
    client.clock.now += 5
    assert client.transport.renew() and client.ask() == 200 and asked(tmp_path) == 2
    expired = Client(kubeconfig(plugin(tmp_path, "2020-01-01T00:00:00Z")))
    assert expired.ask() == 200 and expired.ask(later=REREAD) == 200 and asked(tmp_path) == 4


def test_a_plugin_that_fails_is_named_and_nobody_goes_on_as_anonymous(kubeconfig, tmp_path, server):
    client = Client(kubeconfig(plugin(tmp_path)))
    before = len(server.requests)
    with pytest.raises(TransportError, match=r"process returned 3\. no luck"):
        client.ask()
    assert len(server.requests) == before


class Proxy:
    """CONNECT and nothing else."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            target = client.recv(4096).split()[1].decode()
            self.targets.append(target)
            host, _, port = target.rpartition(":")
            far = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for source, sink in ((client, far), (far, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def proxy():
    made = Proxy()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("environment", "cluster", "used"),
    [
        ({}, {}, False),
        ({"HTTPS_PROXY": "PROXY"}, {}, True),
        ({"HTTPS_PROXY": "PROXY", "NO_PROXY": "10.0.0.0/8,127.0.0.0/8"}, {}, False),
        ({}, {"proxy-url": "PROXY"}, True),
        ({"NO_PROXY": "127.0.0.1"}, {"proxy-url": "PROXY"}, True),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, {"proxy-url": "PROXY"}, True),
    ],
)
def test_proxies(kubeconfig, server, proxy, monkeypatch, environment, cluster, used):
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("PROXY", proxy.url))
    place = kubeconfig({"token": "one"}, **{name: value.replace("PROXY", proxy.url) for name, value in cluster.items()})
    assert Client(place).ask() == 200
    assert proxy.targets == ([server.url.removeprefix("https://")] if used else [])


def test_what_is_asked_where(tmp_path):
    account = tmp_path / "account"
    home = {"HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="no source: give --kubeconfig FILE"):
        credential_source("", "", home, service_account=account)
    pod = {**home, HOST: "192.168.0.1", PORT: "6443"}
    assert credential_source("", "", pod, service_account=account) == CredentialSource(service_account=account)
    own = tmp_path / ".kube" / "config"
    own.parent.mkdir()
    own.write_text("")
    assert credential_source("", "", home, service_account=account).kubeconfig == str(own)
    assert credential_source("", "", pod, service_account=account).kubeconfig == ""
    assert credential_source("", "", {**pod, "KUBECONFIG": str(own)}, service_account=account).kubeconfig == str(own)
    with pytest.raises(SourceError, match="kubeconfig /nowhere does not exist"):
        credential_source("/nowhere", "", home, service_account=account)


def test_an_address_alone_says_not_as_whom_to_ask(tmp_path):
    with pytest.raises(ConfigError, match=r"--master https://a names .* no credentials for it: give --kubeconfig FILE"):
        credential_source("", "https://u:p@a", {"HOME": str(tmp_path)}, service_account=tmp_path)


def test_a_cluster_ip_in_the_environment_is_refused():
    """As the kubelet sets it: both names have the Service's address. Who sets the first leaves the second."""
    environment = {HOST: "10.96.0.1", PORT: "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1"}
    with pytest.raises(StartError, match=r"10\.96\.0\.1, the cluster IP of default/kubernetes.*--master"):
        refuse_cluster_ip(CredentialSource(), environment)
    refuse_cluster_ip(CredentialSource(), {**environment, HOST: "192.168.0.1"})
    refuse_cluster_ip(CredentialSource(master="https://192.168.0.1:6443"), environment)
    refuse_cluster_ip(CredentialSource("/etc/kubeconfig"), environment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "current-context: a",
        "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\nclusters: []",
        "current-context: a\ncontexts: 3",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://a', certificate-authority: /nowhere}}]",
    ],
)
def test_a_kubeconfig_that_makes_no_sense_is_named(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(SourceError, match=f"kubeconfig {path}: "):
        load(CredentialSource(str(path)), {})


@pytest.mark.parametrize(
    "user",
    [
        {"auth-provider": {"name": "oidc", "config": {"id-token": "a.eyJleHAiOjF9.c", "refresh-token": "r",
         "client-id": "c", "client-secret": "SECRET", "idp-issuer-url": "http://127.0.0.1:1/"}}},
        {"exec": "soon"},
    ],
    ids=["the identity provider is down", "the plugin's expiry is not a time"],
)  # fmt: skip
def test_whatever_fails_when_credentials_are_read_again_the_last_stay(kubeconfig, tmp_path, user):
    (tmp_path / "token").write_text("one")
    client = Client(kubeconfig({"token": "one"}))
    assert client.ask() == 200
    place = kubeconfig(plugin(tmp_path, "soon") if "exec" in user else user)
    assert client.ask(later=REREAD) == 200
    with pytest.raises(TransportError, match=r"^kubeconfig ") as said:
        Client(place).ask()
    assert "SECRET" not in str(said.value)


def test_a_file_that_goes_away_while_it_is_read(kubeconfig, tmp_path, monkeypatch):
    place = kubeconfig({"token": "one"})
    client = Client(place)
    assert client.ask() == 200
    real = credentials._fingerprint

    def late(configuration):
        (tmp_path / "ca.crt").unlink()
        return real(configuration)

    monkeypatch.setattr(credentials, "_fingerprint", late)
    authority = (tmp_path / "ca.crt").read_bytes()
    with pytest.raises(SourceError, match=r"ca\.crt: No such file"):
        load(place, {})
    (tmp_path / "ca.crt").write_bytes(authority)
    assert client.ask(later=REREAD) == 200


def test_a_proxy_without_a_scheme_is_http(kubeconfig, monkeypatch):
    proxy = Proxy()
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.removeprefix("http://"))
    assert Client(kubeconfig({"token": "one"})).ask() == 200
    assert len(proxy.targets) == 1


def test_a_proxy_that_cannot_be_used_is_named(kubeconfig):
    client = Client(kubeconfig({"token": "one"}))
    assert client.ask() == 200
    for proxy, words in (("socks5://u:PASSWORD@127.0.0.1:1", "SOCKS"), ("gopher://127.0.0.1:1", "gopher")):
        place = kubeconfig({"token": "one"}, **{"proxy-url": proxy})
        assert client.ask(later=REREAD) == 200
        with pytest.raises(TransportError, match=words) as said:
            Client(place).ask()
        assert "PASSWORD" not in str(said.value)


def test_a_plugin_that_hangs_holds_nobody_who_has_credentials(kubeconfig, tmp_path, monkeypatch):
    monkeypatch.setattr(kubeconfig_module, "PLUGIN_TIMEOUT", 1.5)
    (tmp_path / "token").write_text("one")
    client = Client(kubeconfig(plugin(tmp_path, "2020-01-01T00:00:00Z")))
    assert client.ask() == 200
    script = tmp_path / "plugin"
    script.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {tmp_path}/child\nwait\n")
    client.clock.now += REREAD
    first = threading.Thread(target=client.ask, daemon=True)
    first.start()
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        time.sleep(0.01)
    assert client.ask() == 200 and first.is_alive(), "it asked with the old token while the plugin hung"
    first.join(10)
    assert not first.is_alive()
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z", "its children end with it"
    with pytest.raises(SourceError, match=r"plugin did not end within 2 s"):
        load(CredentialSource(str(tmp_path / "kubeconfig")), {})


@pytest.fixture
def silent():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield f"http://127.0.0.1:{made.getsockname()[1]}"


def expired(issuer: str) -> dict:
    settings = {"id-token": "a.eyJleHAiOjF9.c", "refresh-token": "r", "client-id": "c", "client-secret": "s"}
    return {"auth-provider": {"name": "oidc", "config": {**settings, "idp-issuer-url": issuer}}}


def test_a_provider_of_identities_that_says_nothing_is_not_waited_for(kubeconfig, silent, monkeypatch):
    monkeypatch.setattr(kubeconfig_module, "PLUGIN_TIMEOUT", 0.5)
    with pytest.raises(SourceError, match=r"the identity provider did not answer within"):
        load(kubeconfig(expired(silent)), {})


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"token": "one"}, {"server": ""}, "the cluster of its context .* has no server"),
        ({"tokenFile": "/nowhere/token"}, {}, "/nowhere/token: No such file or directory"),
        ({"token": "one"}, {"certificate-authority": "/nowhere/ca.crt"}, "/nowhere/ca.crt"),
        ({"client-certificate": "/nowhere/a.crt", "client-key": "/nowhere/a.key"}, {}, "/nowhere/a.crt"),
    ],
)
def test_what_never_works_is_said_at_the_start(kubeconfig, user, cluster, words):
    with pytest.raises(SourceError, match=rf"kubeconfig .* cannot be used: .*{words}"):
        require_usable(kubeconfig(user, **cluster), {})


def test_at_the_start_nobody_is_asked(kubeconfig, silent, tmp_path):
    require_usable(kubeconfig(expired(silent)), {})
    require_usable(kubeconfig({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere"}}), {})


def test_an_address_without_a_scheme_is_read_as_kubectl_does(kubeconfig):
    assert load(kubeconfig({"token": "one"}, server="10.0.0.1:6443"), {}).configuration.host == "https://10.0.0.1:6443"


def test_what_a_plugin_complains_of_is_one_short_line(kubeconfig, tmp_path):
    place = kubeconfig(plugin(tmp_path))
    (tmp_path / "plugin").write_text("#!/bin/sh\n{ echo key=SECRET; printf '\\033[31m'; seq -s x 999; } >&2\nexit 1\n")
    with pytest.raises(SourceError) as said:
        load(place, {})
    assert "SECRET" not in str(said.value) and "\033" not in str(said.value) and len(str(said.value)) < 400


def test_a_password_in_the_address_is_not_shown(kubeconfig, server):
    url = server.url.replace("https://", "https://u:PASS@W0RD@")
    client = Client(kubeconfig({"token": "one"}, server=url))
    assert client.ask() == 200
    assert client.transport.server == server.url
    assert ApiTransport(CredentialSource(master=url), {}, Clock()).server == server.url


def test_the_same_trouble_has_the_same_words():
    def words() -> str:
        return _in_words(ConnectTimeoutError(HTTPSConnection("192.0.2.1", 6443), "Connection to 192.0.2.1 timed out."))

    assert words() == "Connection to 192.0.2.1 timed out."


def test_trouble_is_told_without_the_objects_that_had_it():
    def words(pool: HTTPConnectionPool) -> str:
        return _in_words(ReadTimeoutError(pool, "/api", "Read timed out. (read timeout=30.0)"))

    for pool in (HTTPConnectionPool("192.0.2.1", 80), HTTPSConnectionPool("2001:db8::1", 6443)):
        assert words(pool) == "Read timed out. (read timeout=30.0)"
