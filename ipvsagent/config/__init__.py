"""Settings: one frozen `Config`, and everything that turns what people write into it.

    settings.py   Config: the values that everything else is given
    schema.py     the table: each setting's field, path in a document, options, kind; the one place that knows them.
                  Its lines are in service_settings.py and host_settings.py, and setting.py says what they mean
    documents.py  which fields a file sets
    kube_proxy.py what kube-proxy has and we mean otherwise, or not at all
    kinds.py      what may be written for a setting, in a document and on a command line
    parsers.py    durations, CIDRs, addresses, ranges of ports
    resolve.py    defaults, documents and options become a Config; every problem at once
    takeover.py   what of a new Config a running agent takes up
    write.py      a Config as documents that load back to it

A new setting is a field of `Config` and a line of the table; option, help text and document follow from it. Nothing
here reads the environment, and nothing else in the program reads a setting from anywhere but its `Config`.
"""

from ipvsagent.config.parsers import Network, PortRange, parse_duration, parse_network
from ipvsagent.config.remarks import Remark
from ipvsagent.config.resolve import Resolved, resolve
from ipvsagent.config.settings import BackendChoice, Config, for_this_node, node_name

__all__ = [
    "BackendChoice",
    "Config",
    "Network",
    "PortRange",
    "Remark",
    "Resolved",
    "for_this_node",
    "node_name",
    "parse_duration",
    "parse_network",
    "resolve",
]
