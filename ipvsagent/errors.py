"""Defines the exceptions of ipvsagent. Edges raise them; the core returns `Finding`s and `Failure`s as values.

IpvsAgentError
├── ConfigError          options or configuration files are wrong; holds every problem
├── SourceError          an input cannot be read at all
├── KernelError          the kernel refused an operation or a query; holds the errno
│   ├── AlreadyThere     EEXIST: what was to be added exists
│   ├── NotThere         ENOENT, ESRCH, EADDRNOTAVAIL: what was to be changed or removed does not exist
│   ├── OutcomeUnknown   the kernel may have applied the operation, or not (kernel/netlink.py)
│   ├── SetError         an ipset was refused (kernel/ipset/messages.py)
│   │   ├── SetFull      the set has no room for a member
│   │   └── SetInUse     packet rules name the set
│   └── RulesRefused     iptables refused packet rules (kernel/iptables/commands.py)
│       └── RulesLocked  another program held the lock of iptables for too long
└── StartError           the node cannot run the agent: a privilege, a module, another agent; holds the remedy
    └── IpvsAbsent       the kernel has no ip_vs (kernel/host.py)

Exceptions that one package raises and handles itself are not in the tree: `Broken` and `Garbage` in cluster/,
`TransportError` in api/, and those of the reflector in sources/.
"""

from __future__ import annotations

import errno
import os


class IpvsAgentError(Exception):
    """Is the base of all others. `str()` is one sentence for people."""


class ConfigError(IpvsAgentError):
    """Reports every problem of a configuration at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SourceError(IpvsAgentError):
    """Reports an input that cannot be read at all."""


class StartError(IpvsAgentError):
    """Reports why the agent cannot start: `what` failed, and `remedy` is what to do, complete enough to copy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.what = what
        self.remedy = remedy


class KernelError(IpvsAgentError):
    """Reports a refusal. `code` is a positive errno; `detail` is the kernel's extended acknowledgement, if any."""

    def __init__(self, code: int, detail: str = "") -> None:
        name = errno.errorcode.get(code, str(code))
        super().__init__(f"{os.strerror(code)} ({name}){': ' + detail if detail else ''}")
        self.code = code
        self.detail = detail

    @classmethod
    def of(cls, code: int, detail: str = "") -> KernelError:
        """Return an error of the class that fits the errno."""
        return _BY_ERRNO.get(code, KernelError)(code, detail)


class AlreadyThere(KernelError):
    """Reports EEXIST: what was to be added exists."""


class NotThere(KernelError):
    """Reports that what was to be changed or removed does not exist."""


_BY_ERRNO: dict[int, type[KernelError]] = {
    errno.EEXIST: AlreadyThere,
    errno.ENOENT: NotThere,
    errno.ESRCH: NotThere,
    errno.EADDRNOTAVAIL: NotThere,
}
