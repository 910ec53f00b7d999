"""The demo's directory for objects, logs and the agent's state, and the removal of those of killed runs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"ipvsagent-demo-(?P<pid>[0-9]+)-")


@contextmanager
def working_directory() -> Iterator[Path]:
    """Makes a directory, and removes it afterwards."""
    _sweep()
    directory = Path(tempfile.mkdtemp(prefix=f"ipvsagent-demo-{os.getpid()}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep() -> None:
    """Removes the demo's directories whose process has ended."""
    for directory in Path(tempfile.gettempdir()).iterdir():
        found = _NAME.match(directory.name)
        if found and not Path("/proc", found["pid"]).exists() and directory.lstat().st_uid == os.geteuid():
            shutil.rmtree(directory, ignore_errors=True)
