"""`python -m integration.bench.api_server SIZE KUBECONFIG`: the API server of claim (g).

Says `ready`, then takes lines `SERVICE EXTRA` and answers with the time on the monotonic clock just before that
Service's EndpointSlice was changed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from integration.apiserver import Access, ApiServer, Certificates
from integration.bench.cluster import Cluster, Extra


def main(size: int, kubeconfig: Path) -> None:
    cluster = Cluster(size)
    with ApiServer(certificates=Certificates(), access=Access({"bench": "system:node"}, required=True)) as server:
        for document in cluster.documents():
            server.put(document)
        server.write_kubeconfig(kubeconfig)
        print("ready", flush=True)
        for line in sys.stdin:
            service, extra = line.split()
            piece = json.loads(cluster.slice_text(int(service), Extra(extra)))
            began = time.monotonic()
            server.put(piece)
            print(began, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
