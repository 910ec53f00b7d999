"""Boot a User-Mode Linux guest on the host's own root file system and run one command in it.

Why User-Mode Linux: the proxy programs IPVS, ipset and netfilter, which need root and kernel modules that
containers, build machines and many laptops do not have. Debian's package ``user-mode-linux`` is a Linux
kernel, with all of those modules, as an ordinary program: it needs no root, no KVM and no disk image, and is
up in a few seconds. The guest's root is the host's (hostfs below, a tmpfs overlay above it), so the checkout,
the virtual environment and Debian's tools are there at the same paths; what the guest writes is gone with it,
except below shared directories.

Traps, all handled here unless it says otherwise:

* The guest's console is a terminal, whatever the host's output is. A command whose output is not going to a
  terminal gets a pipe, so that ``isatty()`` tells the truth; terminals are raw, so there is no CR before LF.
* The guest's standard input is always /dev/null.
* A killed User-Mode Linux leaves its traced children behind: the whole process group is killed, by a small
  watchdog even when this program itself is killed.
* Guest memory is a sparse file on the host, in /dev/shm where that is big enough (in containers often not).
* hostfs caches: a file that the host makes after the guest looked for it in vain may stay unseen.
* One CPU, clock ticks of 10 ms, slow system calls and forks: no tight timing assertions (not handled).
* The kernel has no nf_tables families ip, ip6 and inet. In the guest ``iptables`` and its relatives
  therefore mean the legacy variants.
* /sys belongs to the first network namespace, whichever namespace looks (not handled).
"""

from integration.guest.boot import run_in_guest
from integration.guest.errors import GuestError, GuestTimeout

__all__ = ["GuestError", "GuestTimeout", "run_in_guest"]
