"""Ctrl-C that waits for the end of a step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupt:
    """A context in which the first Ctrl-C only leaves word, and a second one stops at once.

    An exception in the middle of anything can be lost (Python drops those raised in a destructor), or leave
    half an update; word that is asked for between two steps can't. Threads but the main one hear nothing.
    """

    def __init__(self) -> None:
        self.heard = False
        self._before: Any = None

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self.heard:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Hand Ctrl-C back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self.heard = True
