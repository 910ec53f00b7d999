"""Which ipsets there are: creating, swapping, destroying and listing them."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.messages import (
    CREATE,
    DESTROY,
    FIND_TYPE,
    LIST,
    NETLINK_NETFILTER,
    NEWEST_PROTOCOL,
    OLDEST_PROTOCOL,
    PROTOCOL,
    SWAP,
    TYPE,
    Codec,
    SetHeader,
    SetInUse,
    header_of,
    protocol_range,
    refusal,
    revision_for,
)
from ipvsagent.kernel.netlink import NetlinkSocket, message
from ipvsagent.rows import SetSpec

PREFIX = "IPVSAGENT"
SPARE, TRIAL = f"{PREFIX}.spare", f"{PREFIX}.trial"
"""Where a set that is to replace another is filled, and a set for trying what rules the kernel takes. Nobody reads
them, and what a crash left of them is destroyed."""

_IN_USE_SECONDS = 0.5
"""nf_tables lets go of a set some milliseconds after the rule that used it is gone."""


class Definitions:
    """Raises StartError if the kernel has no ipset, or one that is too new or too old."""

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

    def headers(self) -> list[SetHeader]:
        """All sets, other programs' as well."""
        found = (header_of(body) for body in self.socket.dump(LIST, self.codec.headers()))
        return [header for header in found if header is not None]

    def create(self, spec: SetSpec, name: str = "") -> None:
        """Under its own name or another. Raises StartError if the kernel has no such sets, KernelError."""
        answer = self.socket.get([(TYPE, self.codec.type_query(spec.kind, spec.family))])[0]
        if isinstance(answer, KernelError):
            if answer.code == FIND_TYPE:
                module = "ip_set_" + spec.kind.replace(":", "_").replace(",", "")
                raise StartError(
                    f"the kernel has no ipsets of kind {spec.kind}", f"Load the module with `modprobe {module}`"
                ) from answer
            raise refusal(answer, spec.name)
        body = self.codec.create(spec, name or spec.name, revision_for(spec.kind, answer))
        self._send(CREATE, body, name or spec.name)

    def swap(self, one: str, other: str) -> None:
        """Exchanges what two names mean, in one step; rules go on with the name."""
        self._send(SWAP, self.codec.named(one, other), other)

    def destroy(self, names: Sequence[str]) -> None:
        """All that can be; missing ones are no errors. Raises KernelError for the first that cannot."""
        left = list(names)

        def once() -> None:
            nonlocal left
            first = self.socket.reserve(len(left))
            errors = self.socket.send(
                [message(DESTROY, 0, first + i, self.codec.named(name)) for i, name in enumerate(left)]
            )
            kept = {name: refusal(errors[first + i], name) for i, name in enumerate(left) if first + i in errors}
            kept = {name: error for name, error in kept.items() if error.code != errno.ENOENT}
            left = list(kept)
            for error in kept.values():
                raise error

        retrying = Retrying(
            retry=retry_if_exception_type(SetInUse),
            stop=stop_after_delay(_IN_USE_SECONDS),
            wait=wait_fixed(0.02),
            reraise=True,
        )
        retrying(once)

    def _send(self, kind: int, body: bytes, name: str) -> None:
        for error in self.socket.send([message(kind, 0, self.socket.reserve(1), body)]).values():
            raise refusal(error, name)


def _no_ipset(why: str) -> StartError:
    return StartError(f"the kernel has no ipset: {why}", "Load the module with `modprobe ip_set`")
