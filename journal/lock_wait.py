"""How long to try for a lock that others hold, and when to say so; the locks themselves are elsewhere."""

import time
from collections.abc import Callable
from typing import Final

_NOTICE_S: Final = 0.5
"""After so long a wait is told."""


class LockWait:
    """The pauses between attempts to take a lock; the time counts from here.

    A wait of more than half a second is logged once, as a warning: without a handler for it, on standard error.
    """

    def __init__(self, timeout_s: float, *, check_interval_s: float, describe: Callable[[], str]) -> None:
        """Begin to wait.

        Args:
            timeout_s: How long to try, in seconds; 0 tries once.
            check_interval_s: Pause between two attempts, in seconds.
            describe: Says which lock it is and who holds it, for the warning.
        """
        self._began = time.monotonic()
        self._deadline = self._began + timeout_s
        self._check_interval_s = check_interval_s
        self._describe = describe
        self._told = False

    def pause(self) -> bool:
        """Sleep until the next attempt is due; return False, at once, if the time is over."""
        now = time.monotonic()
        remaining_s = self._deadline - now
        if remaining_s <= 0:
            return False
        if not self._told and now - self._began >= _NOTICE_S:
            self._told = True
            self._tell(remaining_s)
        time.sleep(min(self._check_interval_s, remaining_s))
        return True

    def _tell(self, remaining_s: float) -> None:
        import logging  # noqa: PLC0415 - few wait

        logging.getLogger(__name__).warning(
            "waiting up to %.0f s for %s; lock_timeout_s (C10_LOCK_TIMEOUT_S) says how long, 0 does not wait",
            remaining_s,
            self._describe(),
        )
