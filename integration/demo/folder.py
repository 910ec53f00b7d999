"""The demo's folder for objects, logs and the agent's state; also what runs that were killed left behind."""

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
def working_folder() -> Iterator[Path]:
    """A new folder, gone afterwards."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"ipvsagent-demo-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Removes our folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).iterdir():
        found = _NAME.match(folder.name)
        if found and not Path("/proc", found["pid"]).exists() and folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
