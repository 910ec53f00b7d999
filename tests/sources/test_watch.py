"""The reflector's table, turn by turn, without a server."""

from __future__ import annotations

import contextlib
import itertools
import json
import re

import pytest

from ipvsagent.cluster.decode import Accepted, Rejected
from ipvsagent.cluster.watch_events import Deleted, Put, Status
from ipvsagent.sources.states import Pause, State, Turn, UnexpectedTurn, after
from ipvsagent.sources.watch import EMPTY_AGAIN, FRESH, QUIET, Listed, Reflector, Stopped, Trouble
from tests.support.api_documents import bookmark, endpoint_slice, line, node, page, service, status

REFUSED = Status(503, "ServiceUnavailable", "etcd is away")
FORBIDDEN_STREAM = Status(422, "Invalid", "sendInitialEvents is forbidden")
GONE = Status(410, "Expired", "too old resource version")


def names(listed: Listed) -> list[str]:
    return [decoded.key.name for decoded in listed.objects]


class Driven:
    """A reflector, with short names for its questions and answers."""

    def __init__(self, kind: str = "Service") -> None:
        self.reflector = Reflector(kind)
        self.now = 100.0

    def ask(self, chance: float = 0.5) -> dict[str, str]:
        return dict(self.reflector.request(self.now, chance).query)

    def accepts(self, *pieces: bytes) -> list:
        self.reflector.accepted(self.now)
        return [output for piece in pieces for output in self.reflector.receive(piece, self.now)]

    def ends(self, reason: str = ""):
        return self.reflector.ended(self.now, reason)

    def refuses(self, refusal: Status):
        return self.reflector.refused(refusal, self.now)

    @property
    def state(self) -> State:
        return self.reflector.state

    def watching(self, version: int = 10) -> Driven:
        """As it is after a streamed list of nothing but `web`, and a while."""
        self.ask()
        self.accepts(line("ADDED", service()), bookmark(version, end=True))
        self.now += 2 * FRESH
        return self


def test_a_refusal_is_no_news_of_objects():
    driven = Driven().watching()
    driven.ask()
    driven.accepts(bookmark(11))
    heard = driven.reflector.heard_at
    driven.now += 60
    driven.ends("the connection broke")
    driven.refuses(REFUSED)
    driven.now += 60
    driven.refuses(Status(message="no route to host"))
    assert driven.reflector.heard_at == heard and not driven.reflector.connected


def test_a_streamed_list_becomes_a_watch_on_the_same_answer():
    driven = Driven()
    asked = driven.ask()
    assert asked["sendInitialEvents"] == "true" and asked["resourceVersionMatch"] == "NotOlderThan"
    assert asked["allowWatchBookmarks"] == "true" and "resourceVersion" not in asked
    assert driven.accepts(line("ADDED", service("b", 7)), line("ADDED", service("a", 3))) == []
    (listed,) = driven.accepts(line("DELETED", service("b", 8)) + bookmark(9, end=True))
    assert names(listed) == ["a"]
    assert driven.state is State.WATCH and driven.reflector.version == "9"
    (put,) = driven.accepts(line("MODIFIED", service("a", 12)))
    assert isinstance(put, Put) and driven.reflector.version == "12"
    assert driven.accepts(bookmark(20)) == [] and driven.reflector.version == "20"
    driven.now += 300
    assert driven.ends() == ([], None)
    assert driven.ask()["resourceVersion"] == "20"


def test_versions_of_initial_events_are_not_taken():
    driven = Driven()
    driven.ask()
    driven.accepts(line("ADDED", service("a", 999)), bookmark(50, end=True))
    assert driven.reflector.version == "50"


@pytest.mark.parametrize("code", [400, 404, 405, 406, 415, 422])
def test_a_server_that_cannot_stream_lists_is_asked_for_pages_at_once_and_for_good(code):
    driven = Driven()
    driven.ask()
    assert driven.refuses(Status(code)) is None
    asked = driven.ask()
    assert asked["limit"] == "500" and asked["resourceVersion"] == "0" and "watch" not in asked
    driven.accepts(page(service("a"), version=4, more="token"))
    assert driven.ends() == ([], None)
    asked = driven.ask()
    assert asked["continue"] == "token" and "resourceVersion" not in asked
    driven.accepts(page(service("b"), version=5))
    (listed,), trouble = driven.ends()
    assert names(listed) == ["a", "b"] and trouble is None
    assert driven.state is State.WATCH and driven.ask()["resourceVersion"] == "5"
    driven.now += 2 * FRESH
    assert driven.refuses(GONE) is None
    asked = driven.ask()
    assert driven.state is State.PAGED_LIST
    assert (asked["resourceVersion"], asked["resourceVersionMatch"]) == ("5", "NotOlderThan")


def test_a_streamed_list_that_is_cut_is_thrown_away():
    driven = Driven()
    driven.ask()
    driven.accepts(line("ADDED", service("a")))
    outputs, trouble = driven.ends("reset by peer")
    assert not outputs and trouble == Trouble("reset by peer")
    driven.ask()
    driven.accepts(page(service("b"), version=5))
    (listed,), _ = driven.ends()
    assert names(listed) == ["b"]
    driven.now += 2 * FRESH
    driven.ask()
    driven.refuses(GONE)
    driven.ask()
    (listed,) = driven.accepts(line("ADDED", service("c")), bookmark(9, end=True))
    assert names(listed) == ["c"], "nothing of the first one is left"


def test_410_makes_a_new_list():
    driven = Driven().watching()
    driven.ask()
    assert driven.refuses(GONE) is None
    assert driven.state is State.STREAMED_LIST
    driven.ask()
    driven.accepts(bookmark(30, end=True))
    driven.ask()
    trouble = driven.refuses(GONE)
    assert trouble and trouble.status == 410, "the list is fresh: a server that says so again is not asked in haste"


def test_410_in_the_stream():
    driven = Driven().watching()
    driven.ask()
    driven.reflector.accepted(driven.now)
    with pytest.raises(Stopped) as stopped:
        driven.reflector.receive(line("MODIFIED", service("a", 11)) + line("ERROR", status(410, "Expired")), driven.now)
    assert [type(each) for each in stopped.value.outputs] == [Put] and stopped.value.trouble is None
    assert driven.state is State.STREAMED_LIST


@pytest.mark.parametrize("streams", [True, False])
def test_an_empty_list_is_asked_for_again_until_it_is_not_empty(streams):
    driven = Driven("Node")
    driven.ask()
    if streams:
        driven.accepts(bookmark(9, end=True))
    else:
        driven.refuses(FORBIDDEN_STREAM)
        driven.ask()
        driven.accepts(page(version=9))
        driven.ends()
        driven.ask()
    listed_at = driven.now
    for _ in range(3):
        assert driven.state is State.WATCH and driven.reflector.deadline() == driven.now + EMPTY_AGAIN
        driven.accepts(line("ADDED", node("n", 12)))
        assert driven.reflector.deadline() == listed_at + EMPTY_AGAIN, "an event is no list"
        driven.now = listed_at = listed_at + EMPTY_AGAIN
        assert driven.ends("the server has gone silent") == ([], None)
        asked = driven.ask()
        assert "resourceVersion" not in asked, "not from a cache"
        if streams:
            assert asked["sendInitialEvents"] == "true"
            driven.accepts(bookmark(9, end=True))
        else:
            driven.accepts(page(version=9))
            driven.ends()
            driven.ask()
    driven.now += EMPTY_AGAIN
    driven.ends("the server has gone silent")
    driven.ask()
    driven.accepts(*[line("ADDED", node()), bookmark(9, end=True)] if streams else [page(node())])
    if not streams:
        driven.ends()
        driven.ask()
    assert driven.reflector.deadline() > driven.now + 300


def test_410_between_pages_starts_again_with_one_page():
    driven = Driven()
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    driven.ask()
    driven.accepts(page(service("a"), more="token"))
    driven.ends()
    driven.ask()
    assert driven.refuses(GONE)
    assert not {"limit", "continue", "resourceVersion"} & driven.ask().keys()
    driven.accepts(page(service("b"), version=6))
    (listed,), _ = driven.ends()
    assert names(listed) == ["b"]


def test_a_version_of_the_future_is_forgotten():
    """etcd was restored from a backup: nothing will ever be as new as what was seen."""
    driven = Driven().watching(9000)
    driven.ask()
    trouble = driven.refuses(Status(504, "Timeout", "Too large resource version: 9000, current: 20"))
    assert trouble is None or trouble.status == 504
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    assert "resourceVersion" not in driven.ask()


@pytest.mark.parametrize(
    "event", [bookmark(700), line("MODIFIED", service("a", 700)), line("DELETED", service("a", 9))]
)
def test_versions_that_go_back_make_a_new_list(event):
    """etcd was restored, and the watch went on over it."""
    driven = Driven().watching(1000)
    driven.ask()
    driven.reflector.accepted(driven.now)
    with pytest.raises(Stopped) as stopped:
        driven.reflector.receive(line("ADDED", service("b", 1000)) + event, driven.now)
    assert [type(each) for each in stopped.value.outputs] == [Put], "a version that comes twice has not gone back"
    assert stopped.value.trouble is None and driven.state is State.STREAMED_LIST
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    assert "resourceVersion" not in driven.ask()


def test_versions_that_are_no_numbers_have_no_order():
    driven = Driven().watching("zzz")
    driven.ask()
    driven.accepts(bookmark("aaa"), bookmark(5), bookmark("zz"))
    assert driven.reflector.version == "zz" and driven.state is State.WATCH


@pytest.mark.parametrize("reason", ["", "the server has gone silent"])
def test_a_watch_in_which_nothing_comes_makes_a_new_list(reason):
    """Its version is one that the server has yet to reach, and what happens until then is not sent."""
    driven = Driven().watching(1000)
    driven.ask()
    driven.accepts()
    driven.now += QUIET - 1
    driven.ends(reason)
    assert driven.state is State.WATCH, "the last bookmark may not be old"
    driven.ask()
    driven.accepts(bookmark(1001))
    driven.now += 600
    driven.ends(reason)
    assert driven.state is State.WATCH and driven.ask()["resourceVersion"] == "1001"
    driven.accepts()
    driven.now += QUIET
    assert driven.ends(reason) == ([], None)
    assert driven.state is State.STREAMED_LIST
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    assert "resourceVersion" not in driven.ask()


def test_after_a_watch_that_was_cut_the_next_is_short():
    """Whoever puts etcd back restarts the API server, and ten minutes are long for what nobody tells."""
    driven = Driven().watching(1000)
    driven.ends("reset by peer")
    assert driven.ask(0.0)["timeoutSeconds"] == str(int(QUIET)), "long enough to be doubted"
    driven.refuses(REFUSED)
    assert int(driven.ask(0.999)["timeoutSeconds"]) < 240
    driven.accepts(bookmark(1001))
    driven.now += 240
    driven.ends()
    assert driven.ask(0.0)["timeoutSeconds"] == "300"
    driven.accepts(bookmark(1002))
    driven.now += 299
    driven.ends()  # as a server does that stops
    assert driven.ask(0.0)["timeoutSeconds"] == str(int(QUIET))
    driven.accepts()
    driven.now += QUIET
    driven.ends()
    assert driven.state is State.STREAMED_LIST and driven.ask(0.0)["timeoutSeconds"] == "300"


def test_a_server_without_bookmarks_may_be_quiet():
    driven = Driven()
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    driven.ask()
    driven.accepts(page(service(), version=4))
    driven.ends()
    for _ in range(3):
        assert driven.ask()["resourceVersion"] == "4"
        driven.accepts()
        driven.now += 600
        assert driven.ends() == ([], None)


@pytest.mark.parametrize("code", [0, 401, 403, 500, 503])
@pytest.mark.parametrize("state", [State.WATCH, State.STREAMED_LIST])
def test_an_error_in_the_stream_makes_a_new_list_after_a_pause(state, code):
    """As of an object that the server cannot decode: from the same version it would come again for ever."""
    driven = Driven().watching() if state is State.WATCH else Driven()
    driven.ask()
    driven.reflector.accepted(driven.now)
    with pytest.raises(Stopped) as stopped:
        driven.reflector.receive(line("ERROR", status(code, "InternalError", "unable to decode")), driven.now)
    assert stopped.value.trouble and "unable to decode" in stopped.value.trouble.reason
    assert driven.state is (State.STREAMED_LIST if state is State.WATCH else State.PAGED_LIST)


def test_429_in_the_stream_resumes_after_a_pause():
    driven = Driven().watching()
    driven.ask()
    driven.reflector.accepted(driven.now)
    with pytest.raises(Stopped) as stopped:
        driven.reflector.receive(line("ERROR", status(429, "TooManyRequests")), driven.now)
    assert stopped.value.trouble and driven.ask()["resourceVersion"] == "10"


@pytest.mark.parametrize("refusal", [Status(401), Status(403), Status(429, retry_after=7.0), Status(500), REFUSED])
@pytest.mark.parametrize("state", list(State))
def test_a_refusal_changes_nothing_and_is_waited_for(state, refusal):
    driven = Driven()
    if state is State.WATCH:
        driven.watching()
    elif state is State.PAGED_LIST:
        driven.ask()
        driven.refuses(FORBIDDEN_STREAM)
    before = driven.ask(0.5)
    trouble = driven.refuses(refusal)
    assert trouble and trouble.status == refusal.code and trouble.retry_after == refusal.retry_after
    assert driven.state is state and driven.ask(0.5) == before


def test_a_connection_that_breaks_resumes_from_the_last_version():
    driven = Driven().watching()
    driven.ask()
    driven.accepts(line("ADDED", service("b", 11)), b'{"type":"MODIF')
    outputs, trouble = driven.ends("reset by peer")
    assert (outputs, trouble) == ([], Trouble("reset by peer"))
    assert driven.ask()["resourceVersion"] == "11"
    assert [type(each) for each in driven.accepts(line("ADDED", service("c", 12)))] == [Put], "half a line is forgotten"


def test_a_watch_that_ends_at_once_is_trouble():
    driven = Driven().watching()
    driven.ask()
    driven.accepts()
    _, trouble = driven.ends()
    assert trouble and "at once" in trouble.reason
    driven.ask()
    driven.accepts()
    driven.now += 1.0
    assert driven.ends() == ([], None)


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>\n",
        b"{}\xff\n",
        b'[{"type": "ADDED"}]\n',
        b'{"type": 7, "object": {}}\n',
        b'{"type": "ADDED", "object": 3}\n',
        b'{"type": "ADDED", "object": {"metadata": {}}}\n',
        b'{"type": "DELETED", "object": {"metadata": {"name": "Up"}}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_line_that_makes_no_sense_makes_a_new_list(garbage):
    driven = Driven().watching()
    driven.ask()
    driven.reflector.accepted(driven.now)
    with pytest.raises(Stopped) as stopped:
        driven.reflector.receive(garbage, driven.now)
    assert stopped.value.trouble and driven.state is State.STREAMED_LIST


def test_events_of_unknown_types_and_empty_lines_are_passed_over():
    driven = Driven().watching()
    driven.ask()
    assert driven.accepts(b"\n \n", line("CONFETTI", service("x", 20))) == []


def test_one_broken_object_is_one_broken_object():
    driven = Driven("EndpointSlice")
    driven.ask()
    broken = endpoint_slice("bad", 3)
    broken["endpoints"] = "none"
    (listed,) = driven.accepts(line("ADDED", broken), line("ADDED", endpoint_slice("good", 4)), bookmark(5, end=True))
    assert [type(decoded) for decoded in listed.objects] == [Rejected, Accepted]
    (put,) = driven.accepts(line("MODIFIED", {**broken, "metadata": {**broken["metadata"], "resourceVersion": "9"}}))
    assert isinstance(put.decoded, Rejected) and put.decoded.service == "web" and driven.reflector.version == "9"
    (gone,) = driven.accepts(line("DELETED", {**broken, "metadata": {**broken["metadata"], "resourceVersion": "10"}}))
    assert isinstance(gone, Deleted) and gone.key.name == "bad" and driven.reflector.version == "10"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        json.dumps(status(500)).encode(),
        page(service(), version=""),
        page(version=3, more="token"),
        json.dumps({"metadata": {"resourceVersion": "1"}, "items": 3}).encode(),
    ],
)
def test_a_list_that_is_none(body):
    driven = Driven()
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    driven.ask()
    driven.accepts(body)
    outputs, trouble = driven.ends()
    assert not outputs and trouble and driven.state is State.PAGED_LIST


def test_null_items_are_no_objects():
    driven = Driven("Node")
    driven.ask()
    driven.refuses(FORBIDDEN_STREAM)
    driven.ask()
    driven.accepts(json.dumps({"metadata": {"resourceVersion": "1"}, "items": None}).encode())
    (listed,), _ = driven.ends()
    assert listed == Listed(())


@pytest.mark.parametrize(
    "said",
    [
        "field label not supported: spec.clusterIP",
        '"spec.clusterIP" is not a known field selector: only "metadata.name", "metadata.namespace"',
    ],
)
def test_a_server_that_does_not_know_the_field_is_not_asked_for_it(said):
    driven = Driven()
    assert driven.ask()["fieldSelector"] == "spec.clusterIP!=None"
    refusal = Status(400, "BadRequest", said)
    assert driven.refuses(refusal) is None
    asked = driven.ask()
    assert "fieldSelector" not in asked and "sendInitialEvents" in asked
    assert driven.refuses(refusal) is None and driven.state is State.PAGED_LIST


def test_silence_has_an_end():
    driven = Driven()
    driven.ask()
    driven.reflector.accepted(driven.now)
    assert driven.reflector.deadline() == driven.now + 60
    driven.now += 50
    driven.accepts(line("ADDED", service()))
    assert driven.reflector.deadline() == driven.now + 60
    driven.accepts(bookmark(9, end=True))
    assert driven.reflector.deadline() == 100 + 450 + 15
    assert dict(driven.reflector.request(0, 0.0).query)["timeoutSeconds"] == "300"
    assert driven.reflector.request(0, 0.999).timeout == 599 + 15


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_lines_are_cut_from_any_pieces(size):
    body = b"".join(
        [line("ADDED", node(f"n-{i}", i)) for i in range(20)]
        + [bookmark(50, end=True), line("DELETED", node("n-3", 51))]
    )
    driven = Driven("Node")
    driven.ask()
    listed, gone = driven.accepts(*(body[i : i + size] for i in range(0, len(body), size)))
    assert len(listed.objects) == 20 and gone.key.name == "n-3"


TRANSITIONS = """
    streamed list  complete        watch          none
    streamed list  fields unknown  streamed list  none
    streamed list  unsupported     paged list     none
    streamed list  expired         paged list     always
    streamed list  malformed       paged list     always
    streamed list  broken          paged list     always
    streamed list  refused         streamed list  always
    paged list     more            paged list     none
    paged list     complete        watch          none
    paged list     fields unknown  paged list     none
    paged list     unsupported     paged list     always
    paged list     expired         paged list     always
    paged list     malformed       paged list     always
    paged list     broken          paged list     always
    paged list     refused         paged list     always
    watch          ended           watch          if_short
    watch          fields unknown  watch          none
    watch          broken          watch          always
    watch          refused         watch          always
    watch          expired         streamed list  if_fresh
    watch          unsupported     streamed list  always
    watch          malformed       streamed list  always
"""


def test_every_transition():
    expected = {}
    for text in TRANSITIONS.strip().splitlines():
        before, turn, following, pause = re.split(r" {2,}", text.strip())
        expected[State(before), Turn(turn)] = State(following), Pause[pause.upper()]
    found = {}
    for before, turn in itertools.product(State, Turn):
        with contextlib.suppress(UnexpectedTurn):
            found[before, turn] = after(before, turn, streams=True)
    assert found == expected
    for (before, turn), (following, pause) in expected.items():
        listing = State.PAGED_LIST if following is State.STREAMED_LIST else following
        assert after(before, turn, streams=False) == (listing, pause)


def test_a_turn_that_cannot_happen_is_named():
    with pytest.raises(UnexpectedTurn, match="'more' cannot happen to a watch"):
        after(State.WATCH, Turn.MORE, streams=True)
