"""Signals that ask to stop are noted while somebody listens, and only then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from ssbench.train.stopping import STOP_SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signals as a fresh process has them."""
    before = [(number, signal.getsignal(number)) for number in STOP_SIGNALS]
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.is_requested
        signal.raise_signal(number)
        assert stop.is_requested
    assert signal.getsignal(number) is before


def test_a_second_interrupt_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():  # noqa: PT012  the second of two signals raises
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_request_of_the_system_is_the_same_request() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_requested


def test_nested_uses_are_one() -> None:
    stop = StopRequest()
    with stop:
        with stop:
            pass
        signal.raise_signal(signal.SIGTERM)
    assert stop.is_requested
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_request_hears_what_the_one_around_it_has_heard() -> None:
    with StopRequest() as around:
        with StopRequest() as quiet:
            pass
        assert not quiet.is_requested
        signal.raise_signal(signal.SIGUSR2)
        with StopRequest() as inside:
            assert inside.is_requested
    assert around.is_requested


def test_the_one_around_hears_it_too() -> None:
    with StopRequest() as around:
        with StopRequest() as inside:
            signal.raise_signal(signal.SIGUSR2)
            assert (inside.is_requested, around.is_requested) == (True, False)
        assert around.is_requested


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
    assert not stop.is_requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_listens_to_nothing() -> None:
    heard = []

    def listen() -> None:
        with StopRequest() as stop:
            heard.append(stop.is_requested)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [False]
