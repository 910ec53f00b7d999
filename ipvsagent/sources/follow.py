"""Following one kind, at the edge: connections, pauses, and what is said of them.

The reflector (watch.py) decides what to ask; a `Transport` asks; this drives one with the other in a thread of its
own. Pauses are tenacity's, around a session of as many requests as make progress.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import get_ident
from typing import Any, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from ipvsagent.api.resources import Request
from ipvsagent.api.response import UNAUTHORIZED, Response, TransportError, status_of
from ipvsagent.cluster.watch_events import Status
from ipvsagent.sources.states import State
from ipvsagent.sources.watch import Output, Reflector, Stopped, Trouble

FIRST_PAUSE = 0.8
SHORTEST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
LONGEST_RETRY_AFTER = 120.0
STEADY = 10.0
"""A watch that stood so long is no failure to connect: the next pause is a first one. Not so a list, which is not
there before its end."""
ANSWER_LIMIT = 40.0
"""For connecting and the head of an answer, which may come byte by byte."""
QUIET_LIMIT = 60.0
"""Asking for so long is trouble, wherever it hangs: the server, a plugin that gives credentials."""
SETTLED = 2.0
"""A connection that stands for so long is news that the trouble is over, though nothing came yet."""


class Transport(Protocol):
    def get(self, request: Request) -> Response:
        """Raises TransportError."""

    def renew(self) -> bool:
        """The server did not accept who we are: look for newer credentials. False if there are none."""

    def interrupt(self, thread: int) -> bool:
        """From any thread: the connection on which that one waits in `get` ends. False if it has none yet."""


class _Pause(Exception):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


_backoff = wait_random_exponential(multiplier=FIRST_PAUSE, min=SHORTEST_PAUSE, max=LONGEST_PAUSE)


def pause_after(state: RetryCallState) -> float:
    """Seconds: exponential with full jitter, and not less than the server overrides."""
    error = state.outcome.exception() if state.outcome else None
    wished = error.trouble.retry_after if isinstance(error, _Pause) else None
    return max(_backoff(state), min(wished or 0.0, LONGEST_RETRY_AFTER))


class Follower:
    """deliver: gets what came, in order. clock: seconds that never go back. chance: 0 to 1. sleep: of a thread, woken
    by stop."""

    def __init__(
        self,
        reflector: Reflector,
        transport: Transport,
        deliver: Callable[[list[Output]], None],
        *,
        stopped: Callable[[], bool],
        sleep: Callable[[float], Any],
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.reflector = reflector
        self.trouble: Trouble | None = None
        self.failures = 0
        self._transport = transport
        self._deliver = deliver
        self._stopped = stopped
        self._sleep = sleep
        self._clock = clock
        self._chance = chance
        self._response: Response | None = None
        self._accepted_at = 0.0
        self._given_up = ""
        self._thread = 0
        self._asking_since: float | None = None
        self._hung_since: float | None = None
        self._watched = False

    def run(self) -> None:
        """Until stopped."""
        self._thread = get_ident()
        while not self._stopped():
            Retrying(
                sleep=self._sleep,
                wait=pause_after,
                retry=retry_if_exception_type(_Pause),
                before_sleep=self._note_pause,
            )(self._session)

    def check(self) -> None:
        """Called about once a second by another thread: ends an answer that has gone silent, or does not begin."""
        response, now = self._response, self._clock()
        asking = self._asking_since
        if asking is not None:
            if now - asking > ANSWER_LIMIT and self._transport.interrupt(self._thread):
                self._given_up = f"no answer within {ANSWER_LIMIT:.0f} s"
            if now - asking > QUIET_LIMIT and self._hung_since != asking:
                self._hung_since = asking
                since = datetime.now(UTC) - timedelta(seconds=now - asking)
                self.failures = max(2, self.failures + 1)
                self.trouble = Trouble(f"no answer since {since:%Y-%m-%dT%H:%M:%SZ}")
            return
        if response is None:
            return
        if now > self.reflector.deadline():
            self._given_up = "the server has gone silent"
            response.shutdown()
        elif self.trouble and self.reflector.state is State.WATCH and now - self._accepted_at >= SETTLED:
            self._clear()

    def interrupt(self) -> None:
        """From another thread, after `stopped` has become true."""
        response = self._response
        if response:
            response.shutdown()
        elif self._asking_since is not None:
            self._transport.interrupt(self._thread)

    def _note_pause(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, _Pause)
        self._note(error.trouble)

    def _note(self, trouble: Trouble) -> None:
        self.failures += 1
        self.trouble = trouble

    def _clear(self) -> None:
        self.failures = 0
        self.trouble = None

    def _session(self) -> None:
        """Requests, as long as each is progress. Raises _Pause."""
        while not self._stopped():
            self._accepted_at = float("inf")
            self._watched = False
            trouble = self._ask()
            if self._stopped():
                return
            if self._watched and self._clock() - self._accepted_at >= STEADY:
                if trouble:
                    self._note(trouble)
                    self._sleep(SHORTEST_PAUSE + self._chance() * (FIRST_PAUSE - SHORTEST_PAUSE))
                return
            if trouble:
                raise _Pause(trouble)

    def _ask(self) -> Trouble | None:
        reflector = self.reflector
        request = reflector.request(self._clock(), self._chance())
        self._given_up = ""
        self._asking_since = self._clock()
        try:
            response = self._transport.get(request)
            if response.status == UNAUTHORIZED and self._transport.renew():
                response.close()
                self._asking_since = self._clock()
                response = self._transport.get(request)
        except TransportError as error:
            return reflector.refused(Status(message=self._given_up or str(error)), self._clock())
        finally:
            self._asking_since = None
        if self._given_up:  # a head that was cut looks like one that ended
            response.close()
            return reflector.refused(Status(message=self._given_up), self._clock())
        self._response = response
        try:
            if self._stopped():
                return None
            if response.status != 200:
                return reflector.refused(status_of(response), self._clock())
            self._accepted_at = self._clock()
            reflector.accepted(self._accepted_at)
            # It may rightly say nothing until the next bookmark, and be cut by a load balancer before.
            self._watched = reflector.state is State.WATCH
            return self._read(response)
        finally:
            self._response = None
            response.close()

    def _read(self, response: Response) -> Trouble | None:
        reflector = self.reflector
        reason = ""
        try:
            for piece in response.pieces():
                outputs = reflector.receive(piece, self._clock())
                self._watched = reflector.state is State.WATCH
                if outputs:
                    self._deliver(outputs)
                    self._clear()
        except Stopped as stopped:
            reflector.connected = False
            self._deliver(stopped.outputs)
            return stopped.trouble
        except TransportError as error:
            reason = self._given_up or str(error)
        outputs, trouble = reflector.ended(self._clock(), self._given_up or reason)
        if outputs:
            self._deliver(outputs)
            self._clear()
        return trouble
