"""`python -m integration.bench.api_watch KUBECONFIG`: the reference of claim (g), the official client's Watch.

Says `ready`, then the time on the monotonic clock, and its name, whenever an EndpointSlice has been decoded into its
models.
"""

from __future__ import annotations

import os
import sys
import time

from kubernetes import client, config, watch


def main(kubeconfig: str) -> None:
    api = client.DiscoveryV1Api(config.new_client_from_config(kubeconfig))
    version = api.list_endpoint_slice_for_all_namespaces(limit=1).metadata.resource_version
    stream = watch.Watch().stream(api.list_endpoint_slice_for_all_namespaces, resource_version=version)
    os.write(1, b"ready\n")
    for event in stream:
        os.write(1, f"{time.monotonic()} {event['object'].metadata.name}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
