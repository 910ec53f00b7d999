"""What the demo shows: headlines, tables, what holds and what does not, and the verdict.

On a terminal with colour and a live line while something runs; piped, plain text that reads as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 1000  # a reader of a file or a pipe wraps lines himself, or searches them with grep


@dataclass(frozen=True)
class Claim:
    """A claim of the demo. figures: what was measured, whether the claim holds or not."""

    text: str
    holds: bool
    figures: str = ""

    def __str__(self) -> str:
        return f"{self.text}{f': {self.figures}' if self.figures else ''}"


class Stage:
    def __init__(self, began: float) -> None:
        """began: the time.time() at which the user started the demo."""
        terminal = sys.stdout.isatty()
        self.console = Console(highlight=False, width=None if terminal else PIPED_WIDTH)
        self.claims: list[Claim] = []
        self._began = began
        self._steps = 0
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._yes, self._no = ("✓", "✗") if unicode else ("ok:", "NOT:")

    @property
    def broken(self) -> list[Claim]:
        return [claim for claim in self.claims if not claim.holds]

    def headline(self, text: str) -> None:
        self._steps += 1
        seconds = f"{time.time() - self._began:5.1f} s"
        self.console.print()
        self.console.print(Text.assemble((f"{self._steps}. {text}", "bold cyan"), (f"   [{seconds.strip()}]", "dim")))

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(f"   {text}", style))

    def quote(self, lines: Sequence[str], limit: int | None = None) -> None:
        """Prints the output of another program unchanged."""
        shown = lines if limit is None or len(lines) <= limit + 1 else lines[:limit]
        for line in shown:
            self.console.print(Text(f"   | {line}", "dim"), soft_wrap=True)
        if len(shown) < len(lines):
            more = len(lines) - len(shown)
            self.console.print(Text(f"   | ... and {more} lines more (all of them: make demo ALL=1)", "dim"))

    def table(self, columns: Sequence[tuple[str, JustifyMethod]], rows: Sequence[Sequence[str | Text]]) -> None:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for title, justify in columns:
            table.add_column(title, justify=justify, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self.console.print(Padding(table, (0, 0, 0, 3), expand=False))

    def claim(self, text: str, holds: bool, figures: str = "") -> None:
        """Prints a claim, and counts it for the verdict."""
        claim = Claim(text, holds, figures)
        self.claims.append(claim)
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(
            Text(f"   {self._yes}", "bold green") if holds else Text(f"   {self._no}", "bold red"),
            Text.assemble((text, "" if holds else "bold red"), (f": {figures}" if figures else "")),
        )
        self.console.print(line)

    @contextmanager
    def live(self, text: str) -> Iterator[Callable[[str], None]]:
        """Prints a line that changes while something runs; nothing without a terminal."""
        if not self.console.is_terminal:
            yield lambda figures: None
            return
        with self.console.status(text, spinner="line") as status:
            yield lambda figures: status.update(f"{text} {figures}")

    def failure(self, reason: str) -> None:
        """Prints why the demo ends here: the first claim that does not hold."""
        self.console.print()
        self.claims.append(Claim(reason, False))

    def log(self, lines: Sequence[str]) -> None:
        """Prints the end of the agent's log, to find the cause."""
        if lines:
            self.console.print("\n   The end of the agent's log:")
            self.quote(lines)

    def verdict(self, figures: str) -> bool:
        """Prints the last line; returns whether every claim held."""
        self.console.print()
        seconds = time.time() - self._began
        if not self.broken:
            text = f"{self._yes} All {len(self.claims)} claims held. {figures}. {seconds:.0f} s."
            self.console.print(Text(text, "bold green"))
            return True
        for claim in self.broken:
            self.console.print(Text(f"{self._no} {claim}", "red"))
        text = f"{self._no} {len(self.broken)} of {len(self.claims)} claims did not hold. {figures}. {seconds:.0f} s."
        self.console.print(Text(text, "bold red"))
        return False
