"""Lists the layers of the package, and what each part of it must not know."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ipvsagent"
# Each layer may import those below it; the parts on one line may import each other, unless MAY_NOT_KNOW says otherwise.
LAYERS = [
    {"cli", "__main__"},
    {"agent"},
    {"backends"},
    {"packet_filter"},
    {"sources", "monitoring", "status", "kernel"},
    {"api"},
    {"pipeline"},
    {"reconcile", "render", "policy"},
    {"cluster", "events"},
    {"config"},
    {"rows"},
    {"model", "findings", "errors", "address", "source_ranges", "yaml_documents", "wrong_types", "printable"},
]
MAY_NOT_KNOW = {
    "kernel": {"policy", "cluster", "sources", "status", "reconcile", "render", "pipeline"},
    "sources": {"kernel", "policy", "reconcile", "render", "status", "monitoring"},
    "status": {"monitoring"},
    "api": {"kernel", "policy", "reconcile", "render", "sources", "status", "monitoring"},
    "render": {"cluster", "policy", "reconcile"},
    "policy": {"reconcile", "render"},
}
PURE = {"model", "rows", "findings", "errors", "cluster", "policy", "render", "pipeline"}
PURE |= {"reconcile", "source_ranges", "events"}
IMPURE = {"socket", "subprocess", "threading", "time", "logging", "random", "asyncio", "pathlib", "io"}
MODULES = sorted(PACKAGE.rglob("*.py"))
