"""Compute items in a thread before they are asked for, so that whoever uses them does not wait."""

from collections.abc import Iterable, Iterator
from queue import Queue
from threading import Event, Thread
from typing import Final, TypeVar

from store.base.valueclass import valueclass
from store.errors import TranslateShortages

Item = TypeVar("Item")

_READY: Final = 1
"""Items that wait; with the one that is used and the one that is computed, three exist at once."""

MOST_ITEMS: Final = _READY + 2
"""Items that exist at once: memory for so many can be used in turns."""


@valueclass(frozen=True, slots=True)
class _End:
    """What follows the last item: the error of the iterator, if it raised one."""

    error: BaseException | None = None


def run_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items in their order, which a thread computes; an error of theirs is raised in its place.

    The item that was yielded is used until the next one is asked for. Closing this early waits for the item that
    is being computed, for ever if that waits for something that does not come.

    Raises:
        CacheUnusableError: This process lacks threads or memory for one.
    """
    ready: Queue[Item | _End] = Queue(_READY)
    closed = Event()

    def compute() -> None:
        end = _End()
        try:
            for item in items:
                ready.put(item)
                if closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the other thread
            end = _End(error)
        ready.put(end)

    thread = Thread(target=compute, name="run-ahead", daemon=True)
    with TranslateShortages("starting a thread"):
        thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        while thread.is_alive():
            # It may wait for room, once for its item and once for its end.
            if not ready.empty():
                ready.get()
            thread.join(0.01)
