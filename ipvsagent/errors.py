"""The exceptions of ipvsagent. Edges raise them; the core returns `Finding`s and `Failure`s as values.

IpvsAgentError
├── ConfigError          wrong options or configuration; every problem at once
├── SourceError          an input that cannot be read at all
├── KernelError          one netlink operation or query was refused; carries errno
│   ├── AlreadyThere     EEXIST: what was to be added is there
│   └── NotThere         ENOENT, ESRCH, EADDRNOTAVAIL: what was to be changed or removed is not
└── StartError           the node cannot run the agent: a privilege, a module, another agent; names the remedy
"""

from __future__ import annotations

import errno
import os


class IpvsAgentError(Exception):
    """Base of all. `str()` is one sentence for a person."""


class ConfigError(IpvsAgentError):
    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SourceError(IpvsAgentError):
    pass


class StartError(IpvsAgentError):
    """`what` failed; `remedy` is what the operator can do, complete enough to copy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.what = what
        self.remedy = remedy


class KernelError(IpvsAgentError):
    """The kernel refused. `code` is a positive errno; `detail` is its extended acknowledgement, if it sent one."""

    def __init__(self, code: int, detail: str = "") -> None:
        name = errno.errorcode.get(code, str(code))
        super().__init__(f"{os.strerror(code)} ({name}){': ' + detail if detail else ''}")
        self.code = code
        self.detail = detail

    @classmethod
    def of(cls, code: int, detail: str = "") -> KernelError:
        """The class that fits an errno."""
        return _BY_ERRNO.get(code, KernelError)(code, detail)


class AlreadyThere(KernelError):
    pass


class NotThere(KernelError):
    pass


_BY_ERRNO: dict[int, type[KernelError]] = {
    errno.EEXIST: AlreadyThere,
    errno.ENOENT: NotThere,
    errno.ESRCH: NotThere,
    errno.EADDRNOTAVAIL: NotThere,
}
