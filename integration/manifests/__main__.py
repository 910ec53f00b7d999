"""`python -m integration.manifests`: every object against the real schemas of Kubernetes, strictly, without a cluster.

Runs in an environment of its own: where kubernetes-validate is installed, the official client imports it, too, and the
agent would pay for that.
"""

from __future__ import annotations

import sys

import kubernetes_validate

from integration.manifests import MANIFESTS, VARIANTS, rendered

OLDEST = "1.27"


def main() -> int:
    faults = 0
    for version in (OLDEST, kubernetes_validate.latest_version()):
        for variant in VARIANTS:
            for item in rendered(MANIFESTS / variant):
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    faults += 1
                    path = ".".join(map(str, error.path))
                    name = f"{item['kind']} {item['metadata']['name']}"
                    print(f"manifests/{variant}: {name}: {path}: {error.message} (Kubernetes {version})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
