"""Defines the settings: one frozen `Config`, and everything that turns what people write into it.

    settings.py   Config: the values that the rest of the program gets
    schema.py     the table: each setting's field, path in a document, options and kind. Its lines are in
                  service_settings.py and host_settings.py, and setting.py documents their columns
    documents.py  which fields a file sets
    kube_proxy.py settings of kube-proxy's that have another meaning here, or none
    kinds.py      what may be written for a setting, in a document and on a command line
    parsers.py    durations, CIDRs, addresses, ranges of ports
    resolve.py    makes a Config of defaults, documents and options, and reports every problem at once
    reload.py     which settings of a new Config a running agent can change
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
