"""Drives a reflector (watch.py), which decides what to ask, with a `Transport`, which asks, in a thread of its own.

tenacity makes the pauses, around a session of as many requests as make progress.
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
"""Seconds after which a watch counts as a successful connection, so that the backoff starts again. A list counts only
when it is complete."""
ANSWER_LIMIT = 40.0
"""Seconds for connecting and for the head of an answer, which may come byte by byte."""
QUIET_LIMIT = 60.0
"""Seconds after which a request that hangs is reported, whether the server hangs or a credential plugin."""
SETTLED = 2.0
"""Seconds after which a watch ends the trouble even though nothing has come yet."""


class Transport(Protocol):
    """Does what a follower needs of HTTP."""

    def get(self, request: Request) -> Response:
        """Send the request. Raises TransportError."""

    def renew(self) -> bool:
        """Read the credentials again, because the server rejected them. Return False if they are the same."""

    def interrupt(self, thread: int) -> bool:
        """Cut the connection on which `thread` waits in `get`. Return False if it has none yet. Any thread may call
        this."""


class _Pause(Exception):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


_backoff = wait_random_exponential(multiplier=FIRST_PAUSE, min=SHORTEST_PAUSE, max=LONGEST_PAUSE)


def pause_after(state: RetryCallState) -> float:
    """Return seconds: exponential with full jitter, and not less than the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    retry_after = error.trouble.retry_after if isinstance(error, _Pause) else None
    return max(_backoff(state), min(retry_after or 0.0, LONGEST_RETRY_AFTER))


class Follower:
    """Follows one kind until it is stopped.

    deliver: receives what came, in order. stopped: whether to end. sleep: ends early when stopped. clock: monotonic
    seconds. chance: random numbers from 0 to 1.
    """

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
        """Follow the kind until stopped."""
        self._thread = get_ident()
        while not self._stopped():
            Retrying(
                sleep=self._sleep,
                wait=pause_after,
                retry=retry_if_exception_type(_Pause),
                before_sleep=self._record_pause,
            )(self._session)

    def check(self) -> None:
        """End an answer that has gone silent or does not begin. Another thread calls this about once a second."""
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
        """Wake the thread of `run`, once `stopped` is true. Another thread calls this."""
        response = self._response
        if response:
            response.shutdown()
        elif self._asking_since is not None:
            self._transport.interrupt(self._thread)

    def _record_pause(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, _Pause)
        self._record(error.trouble)

    def _record(self, trouble: Trouble) -> None:
        self.failures += 1
        self.trouble = trouble

    def _clear(self) -> None:
        self.failures = 0
        self.trouble = None

    def _session(self) -> None:
        """Send requests as long as each makes progress. Raises _Pause."""
        while not self._stopped():
            self._accepted_at = float("inf")
            self._watched = False
            trouble = self._ask()
            if self._stopped():
                return
            if self._watched and self._clock() - self._accepted_at >= STEADY:
                if trouble:
                    self._record(trouble)
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
            # A healthy watch may be silent until the next bookmark, and a load balancer may cut it before that.
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
