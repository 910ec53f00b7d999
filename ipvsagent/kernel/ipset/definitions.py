"""Creates, swaps, destroys and lists ipsets.

pyroute2 does all but the listing, which belongs to each pass of the audit and to `status`: beside the 500 sets that
another program has, it takes our codec 29 ms and pyroute2 260 ms (Linux 6.1).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.messages import (
    FIND_TYPE,
    LIST,
    NETLINK_NETFILTER,
    NEWEST_PROTOCOL,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Codec,
    SetHeader,
    SetInUse,
    header_of,
    protocol_range,
    refusal,
)
from ipvsagent.kernel.netlink import NetlinkSocket
from ipvsagent.kernel.pyroute import create_set, destroy_sets, swap_sets
from ipvsagent.rows import SetSpec

PREFIX = "IPVSAGENT"
SPARE, TRIAL = f"{PREFIX}.spare", f"{PREFIX}.trial"
"""Where a set that is to replace another is filled, and a set for trying which rules the kernel accepts. Nothing reads
them, and those that a crash left are destroyed."""

_REVISIONS = {"hash:ip": 4, "hash:net": 6, "hash:ip,port": 5, "hash:ip,port,ip": 5, "hash:ip,port,net": 7}
"""The first that has skbinfo (Linux 3.18): nothing newer is used, and older tools can still list such sets."""
_IN_USE_SECONDS = 0.5
"""nf_tables releases a set some milliseconds after the rule that used it is gone."""


class Definitions:
    """Creates, exchanges, destroys and lists sets. Raises StartError if the kernel's ipset is missing, too new or too
    old."""

    def __init__(self, timeout: float) -> None:
        try:
            self.socket = NetlinkSocket(NETLINK_NETFILTER, timeout=timeout)
        except OSError as error:
            raise _no_ipset(str(error)) from error
        self.codec = Codec(self._negotiate())

    def _negotiate(self) -> int:
        answer = self.socket.get([(PROTOCOL, Codec().version())])[0]
        if isinstance(answer, KernelError):
            self.socket.close()
            if answer.code == errno.EPERM:
                raise StartError("no permission to use ipset", "Run as root with CAP_NET_ADMIN") from answer
            raise _no_ipset(str(answer)) from answer
        oldest, newest = protocol_range(answer)
        if newest < OLDEST_PROTOCOL or oldest > NEWEST_PROTOCOL:
            self.socket.close()
            raise StartError(
                f"the kernel speaks versions {oldest} to {newest} of ipset's protocol, "
                f"this agent {OLDEST_PROTOCOL} to {NEWEST_PROTOCOL}",
                "Use a kernel or an agent that fits the other",
            )
        return min(newest, NEWEST_PROTOCOL)

    def close(self) -> None:
        self.socket.close()

    def headers(self) -> list[SetHeader]:
        """List all sets, other programs' as well."""
        found = (header_of(body) for body in self.socket.dump(LIST, self.codec.headers()))
        return [header for header in found if header is not None]

    def create(self, spec: SetSpec, name: str = "") -> None:
        """Create a set under its own name or another. Raises StartError if the kernel has no such sets, KernelError."""
        name = name or spec.name
        try:
            create_set(spec, name, _REVISIONS[spec.kind])
        except KernelError as error:
            if error.code == FIND_TYPE:
                module = "ip_set_" + spec.kind.replace(":", "_").replace(",", "")
                raise StartError(
                    f"the kernel has no ipsets of kind {spec.kind}", f"Load the module with `modprobe {module}`"
                ) from error
            raise refusal(error, name) from error

    def swap(self, one: str, other: str) -> None:
        """Exchange what two names mean, in one step; rules continue to refer to the name."""
        try:
            swap_sets(one, other)
        except KernelError as error:
            raise refusal(error, other) from error

    def destroy(self, names: Sequence[str]) -> None:
        """Destroy all that can be; missing ones are not errors. Raises KernelError for the first that cannot."""
        left = list(names)

        def once() -> None:
            nonlocal left
            refused = destroy_sets(left)
            kept = {name: refusal(error, name) for name, error in refused.items() if error.code != errno.ENOENT}
            left = list(kept)
            for error in kept.values():
                raise error

        retrying = Retrying(
            retry=retry_if_exception_type(SetInUse),
            stop=stop_after_delay(_IN_USE_SECONDS),
            wait=wait_fixed(0.02),
            reraise=True,
        )
        if left:
            retrying(once)


def _no_ipset(why: str) -> StartError:
    return StartError(f"the kernel has no ipset: {why}", "Load the module with `modprobe ip_set`")
