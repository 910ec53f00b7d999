"""The inbox keeps order, wakes at once, and survives signals."""

import signal
import threading
import time

from ipvsagent.sources.inbox import Inbox


def test_all_pending_messages_in_order():
    inbox = Inbox()
    for message in (1, None, "two"):
        inbox.put(message)
    assert inbox.take(0) == [1, None, "two"]
    assert inbox.take(0) == []


def test_take_wakes_at_once():
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, ["now"]).start()
    started = time.monotonic()
    assert inbox.take(None) == ["now"]
    assert time.monotonic() - started < 5


def test_timeout():
    started = time.monotonic()
    assert Inbox().take(0.05) == []
    assert time.monotonic() - started >= 0.05


def test_close_wakes_and_what_came_before_is_not_lost():
    inbox = Inbox()
    threading.Timer(0.05, inbox.close).start()
    assert inbox.take(None) == []
    assert inbox.closed
    inbox = Inbox()
    inbox.put("before")
    inbox.close()
    inbox.put("after")
    assert inbox.take(None) == ["before"]
    assert inbox.take(None) == []
    assert inbox.take(None) == []


def test_a_signal_handler_may_put():
    inbox = Inbox()
    before = signal.signal(signal.SIGALRM, lambda *_: inbox.put("alarm"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert inbox.take(5) == ["alarm"]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_nothing_is_lost_between_threads():
    inbox = Inbox()
    writers = [threading.Thread(target=lambda n=n: [inbox.put((n, i)) for i in range(500)]) for n in range(4)]
    for writer in writers:
        writer.start()
    taken = []
    while len(taken) < 2000:
        taken += inbox.take(5)
    for n in range(4):
        assert [i for m, i in taken if m == n] == list(range(500))
