"""An API server double: lists and watches of Services, EndpointSlices, Nodes and what goes with them, with the
semantics of the real one, and faults on demand.

    access = Access({"secret": "system:node:node-1"}, required=True)
    with ApiServer(certificates=Certificates(), access=access) as server:
        server.put({"apiVersion": "v1", "kind": "Service", ...})
        server.write_kubeconfig(path)
        server.faults.add(Break(how="reset", after_events=3, verb="watch"))
        server.restart(history="lost")

`python -m integration.apiserver --help` is the same for a shell. The contract suite,
tests/integration/test_apiserver_contract.py, holds it to what a real API server does; real/ makes one to hold the suite
to. It takes JSON and YAML, but no protobuf, which `kubectl create namespace` and its like send: `kubectl apply` works.

Map: store.py is the versions and the log; reads.py, watches.py, writes.py the verbs; events.py what an Event must be;
options.py, selectors.py, routes.py, patches.py, shapes.py how they are asked for; api.py joins them; connections.py and
access.py are HTTP, TLS and credentials; faults.py is the fault script, control.py how it is changed from outside.
"""

from integration.apiserver.access import Access
from integration.apiserver.certificates import Certificates
from integration.apiserver.faults import (
    Break,
    Duplicate,
    ErrorEvent,
    Fault,
    Faults,
    Garbage,
    NoBookmarks,
    NoWatchList,
    Refuse,
    Reorder,
    Slow,
    read_script,
)
from integration.apiserver.manifests import load
from integration.apiserver.server import ApiServer
from integration.apiserver.store import Store

__all__ = [
    "Access",
    "ApiServer",
    "Break",
    "Certificates",
    "Duplicate",
    "ErrorEvent",
    "Fault",
    "Faults",
    "Garbage",
    "NoBookmarks",
    "NoWatchList",
    "Refuse",
    "Reorder",
    "Slow",
    "Store",
    "load",
    "read_script",
]
