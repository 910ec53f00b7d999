"""The API server double: starting and stopping it, its objects, and access for clients."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from integration.apiserver import manifests
from integration.apiserver.access import Access
from integration.apiserver.api import Answer, Api, Entry, Request
from integration.apiserver.certificates import Certificates
from integration.apiserver.connections import Listener
from integration.apiserver.control import control
from integration.apiserver.faults import Disturbance, Faults
from integration.apiserver.records import Record, Thing, key_of
from integration.apiserver.resources import BY_KIND, Resource
from integration.apiserver.store import Store
from integration.apiserver.watches import BOOKMARK_INTERVAL, Watch

ANY_PORT = 0


class ApiServer:
    """Serves from `start` (or `with`) to `stop`, and again after that, on the same port.

    certificates: None serves plain HTTP. Objects are put, and read, in `store`, or with `put` and `remove`, which check
    nothing; what clients write is checked. Everything public may be used from any thread.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        access: Access | None = None,
        faults: Faults | None = None,
        certificates: Certificates | None = None,
        host: str = "127.0.0.1",
        port: int = ANY_PORT,
        bookmark_interval: float = BOOKMARK_INTERVAL,
    ) -> None:
        self.store = store or Store()
        self.access = access or Access()
        self.faults = faults or Faults()
        self.certificates = certificates
        self.api = Api(
            self.store,
            self.access,
            self.faults,
            bookmark_interval=bookmark_interval,
            closed=lambda: self._stopping.is_set(),
        )
        self.host, self.port = host, port
        self.breakdowns: list[str] = []
        self._stopping = threading.Event()
        self._listener: Listener | None = None
        for name in manifests.SYSTEM_NAMESPACES:
            manifests.add_namespace(self.store, name)

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificates else 'http'}://{host}:{self.port}"

    @property
    def requests(self) -> deque[Entry]:
        return self.api.journal

    @property
    def watching(self) -> int:
        """The number of open watches."""
        return self._listener.watches if self._listener else 0

    def start(self) -> None:
        """Starts serving. Raises OSError if the port is in use."""
        self._stopping = threading.Event()
        context = self.certificates.server_context() if self.certificates else None
        self._listener = Listener((self.host, self.port), self._serve, context, self._stopping)
        self._listener.breakdowns = self.breakdowns
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.accept_until_closed, name="api server", daemon=True).start()

    def stop(self) -> None:
        """Ends as a killed process does: connections are closed without notice."""
        self._stopping.set()
        self.store.wake()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def restart(self, *, down: float = 0.0, history: Literal["kept", "lost"] = "kept") -> None:
        """Restarts. down: seconds without a server. As with a real one, the history of the watch cache is lost."""
        self.stop()
        time.sleep(down)
        if history == "lost":
            self.store.compact()
        self.start()

    def disconnect(self) -> None:
        """Resets every open connection."""
        if self._listener is not None:
            self._listener.reset_all()

    def _serve(self, request: Request) -> tuple[Answer | Watch, Disturbance]:
        if (controlled := control(self, request)) is not None:
            return controlled, Disturbance([])
        return self.api.answer(request)

    def put(self, thing: Thing) -> None:
        """Creates or replaces an object of a known kind, without defaults or checks."""
        for resource, each in manifests.objects(thing):
            manifests.put(self.store, resource, each)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Raises KeyError."""
        self.store.remove(_of_kind(kind), key_of(namespace, name))

    def get(self, kind: str, namespace: str, name: str) -> Thing:
        """Raises KeyError."""
        found: Record | None = self.store.get(_of_kind(kind), key_of(namespace, name))
        if found is None:
            raise KeyError(name)
        return found.decoded()

    def kubeconfig(self, user: Mapping[str, Any] | None = None, *, server: str = "") -> str:
        """Returns a kubeconfig for clients. user: the fields of its user, by default the first token."""
        if user is None:
            token = next(iter(self.access.tokens), "")
            user = {"token": token} if token else {}
        cluster = {"server": server or self.url}
        if self.certificates:
            cluster["certificate-authority-data"] = self.certificates.authority_data
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "user", "user": dict(user)}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user"}}],
            "current-context": "double",
        }
        return yaml.safe_dump(document, sort_keys=False)

    def write_kubeconfig(self, path: Path, user: Mapping[str, Any] | None = None) -> Path:
        path.write_text(self.kubeconfig(user))
        path.chmod(0o600)
        return path


def _of_kind(kind: str) -> Resource:
    return next(resource for (_, name), resource in BY_KIND.items() if name == kind)
