"""Whether the demo can use the kernel of this machine, or needs a guest."""

from __future__ import annotations

import os
import shutil

from integration.lab import LabError, Namespace


def why_not_here() -> str | None:
    """Why this kernel will not do, None if it will. Tried, not guessed, in a namespace that is then gone."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "ipvsadm", "setpriv"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    try:
        namespace = Namespace("trial")
    except LabError as error:
        return str(error)
    try:
        namespace.ip(["link set lo up"])
        namespace.run("ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "rr")
        if "10.96.0.1:80" not in namespace.run("ipvsadm", "-Ln"):
            return "ip_vs took a virtual server and does not show it"
        namespace.ip(["link add trial type dummy"])
    except LabError:
        return "this kernel has no working ip_vs, or no dummy devices"
    finally:
        namespace.close()
    return None
