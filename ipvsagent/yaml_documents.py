"""Parses YAML as Kubernetes users mean it, with libyaml.

Scalars are resolved only where YAML 1.1 and 1.2 agree, so `on`, `1:30`, `010`, `1_000` and `2024-01-01` remain text,
which is an error where a number is expected. A key that a mapping contains twice is an error, as for `kubectl apply`;
the last of the two does not win silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml
from yaml.composer import Composer

_MERGE = "tag:yaml.org,2002:merge"


def yaml_documents(text: bytes | str) -> Iterator[object]:
    """Yield each document that is not empty, as mappings, lists and scalars. Raises yaml.YAMLError, RecursionError."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            document = loader.get_data()
            if document is not None:
                yield document
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in (error.problem or ""):  # libyaml itself limits it since 0.2.6
            raise RecursionError(error.problem) from error
        raise
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML's constructors for `!!int`, `!!bool` and others do not check the text that has the tag.
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from error
    finally:
        loader.dispose()


class _Loader(Composer, yaml.CSafeLoader):
    """Parses with libyaml and composes with PyYAML's own code: libyaml's binding recurses in C, and deep nesting would
    crash the process."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: bytes | str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check for duplicate keys before merge keys (`<<`) are resolved, as these may repeat keys."""
        if node not in self._checked:
            self._checked.add(node)
            seen = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                    continue
                if (key.tag, key.value) in seen:
                    problem = f"key {key.value!r} is set twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        super().flatten_mapping(node)


# No more than 18 digits: Python refuses to convert thousands of them, and no field needs more.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})|0x[0-9a-fA-F]{1,16}", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
