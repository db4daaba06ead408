"""The first Ctrl-C waits for the end of a step, the second does not."""

import signal

import pytest

from esper_agents.interrupt import Interrupt


def test_the_first_is_kept_until_it_is_asked_for_and_the_second_stops_at_once():
    with Interrupt() as interrupt:
        interrupt.check()
        signal.raise_signal(signal.SIGINT)
        assert interrupt.heard
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_control_c_is_what_it_was():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
