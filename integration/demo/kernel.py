"""Whether the demo can use the kernel of this machine, or needs a guest."""

from __future__ import annotations

import os
import shutil

from integration.demo.backends import BACKENDS, Backend
from integration.lab import LabError, Namespace


def why_not_here(backend: Backend = BACKENDS["ipvs"]) -> str | None:
    """Returns why this kernel does not suffice, None if it does. It is tested in a namespace of its own."""
    if os.geteuid() != 0:
        return "not root"
    for program in backend.programs:
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    try:
        namespace = Namespace("trial")
    except LabError as error:
        return str(error)
    try:
        namespace.ip(["link set lo up"])
        return backend.trial(namespace)
    except LabError:
        return f"this kernel has no working {backend.kernel}, or no {backend.devices} devices"
    finally:
        namespace.close()
