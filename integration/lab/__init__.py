"""A cluster's network on one machine, in network namespaces: this node, its pods, other nodes, a client.

Nothing here touches the network of the machine: every device, the wire between the nodes included, is made in
a namespace that the lab made itself. The namespaces have no names; open file descriptors hold them. So there
is nothing to clean up after a run that was killed: the kernel takes them away, with all that is in them.

Needs root (or a user namespace's root): CAP_SYS_ADMIN and CAP_NET_ADMIN.
"""

from integration.lab.errors import LabError
from integration.lab.load import Failure, Load, Outcome, Question, Report, Target, ask, send_requests
from integration.lab.namespaces import Namespace
from integration.lab.servers import Server, Servers
from integration.lab.topology import Lab, Machine, Pod, Topology

__all__ = [
    "Failure",
    "Lab",
    "LabError",
    "Load",
    "Machine",
    "Namespace",
    "Outcome",
    "Pod",
    "Question",
    "Report",
    "Server",
    "Servers",
    "Target",
    "Topology",
    "ask",
    "send_requests",
]
