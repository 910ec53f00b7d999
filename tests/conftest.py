"""Fixtures, options and Hypothesis profiles for all tests.

Tests with the mark `kernel` program the kernel that they run on, each in a network namespace of its own (fixture
`netns`). Without a kernel with ip_vs they fail and say what to do, because a skip would look like a pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import settings

from ipvsagent.printable import printable
from tests.support.network_namespace import NetworkNamespace

settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("dev", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

NO_KERNEL = (
    "kernel tests need root and a kernel with ip_vs: run `make test-kernel`, which runs them in a guest, "
    "or one of them by `.venv/bin/python -m integration.guest -- .venv/bin/python -m pytest -m kernel PATH`"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test makes the run fail")
    parser.addoption("--claims", metavar="DIRECTORY", help="run the test files that no other run has claimed there")
    parser.addoption("--rewrite-golden", action="store_true", help="write what is, to be reviewed as a diff")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") and not (os.geteuid() == 0 and Path("/proc/net/ip_vs").exists()):
        pytest.fail(NO_KERNEL, pytrace=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that need more than the project installs; a skip means that the machine lacks something."""
    absent = [item for item in items if not all(mark.args[0] for mark in item.iter_markers("only_where"))]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --claims, run the files that this process claims; the rest is pytest's own loop."""
    directory = session.config.getoption("--claims")
    if not directory or session.testsfailed or session.config.option.collectonly:
        return None
    items = _claimed(session.items, Path(directory))
    item = next(items, None)
    while item:
        following = next(items, None)  # fixtures are torn down by what comes next
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _claimed(items: Iterable[pytest.Item], directory: Path) -> Iterator[pytest.Item]:
    """Yield the tests of each file that no other process has claimed, and claim it."""
    for path, tests in groupby(items, lambda item: item.path):
        try:
            directory.joinpath(str(path).replace("/", "+")).mkdir()
        except FileExistsError:
            continue
        yield from tests


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make logs printable: they need not be UTF-8, and are sent from process to process."""
    report = yield
    report.sections = [(printable(title), printable(text)) for title, text in report.sections]
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and session.config.getoption("--no-skips") and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--no-skips") and (count := _skipped(config)):
        terminalreporter.write_line(f"failed: {count} skipped, and --no-skips was given", red=True)


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


@pytest.fixture
def new_netns() -> Iterator[Callable[[], NetworkNamespace]]:
    """Return a function that makes namespaces without entering them; all are gone after the test."""
    made: list[NetworkNamespace] = []

    def make() -> NetworkNamespace:
        made.append(NetworkNamespace())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def netns(new_netns: Callable[[], NetworkNamespace]) -> Iterator[NetworkNamespace]:
    """Run the test in a new network namespace."""
    namespace = new_netns()
    with namespace.entered():
        yield namespace
