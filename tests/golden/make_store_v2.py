"""Write the golden cache whose second manifest has format 2: the index of its second build extends that of the first.

    python tests/golden/make_store_v2.py FOLDER

`make_store_v1.py` has the rest of the history of caches; the folder has the same form.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.policy import rollback
from store.testing import FakeClock
from tests.golden.make_store_v1 import CACHE_ID, expected
from tests.played_builds import Scenario, play

CHANGED = {(0, 0): "a", (1, 0): "changed", (20, 3): "c"}


def make(folder: Path) -> None:
    """Write the folder, which does not exist yet."""
    write(folder, _live)


def _live(store: CacheWriter) -> None:
    play(store, Scenario())
    play(store, Scenario(flight="f2", tiles=CHANGED, extend=True))
    play(store, Scenario(flight="f3", tiles=CHANGED, extend=True))
    planned = rollback.plan(store.state, to=2, why="it was better")
    assert planned is not None
    store.roll_back(planned)


def write(folder: Path, live: Callable[[CacheWriter], None]) -> None:
    """Write the folder of what happens to a cache, and what it has to mean."""
    with tempfile.TemporaryDirectory() as scratch:
        layout = Layout(Path(scratch, "cache"))
        with (
            mock.patch("secrets.token_hex", return_value=CACHE_ID),
            CacheWriter.open(
                layout, clock=FakeClock(), create=True, reserve_bytes=0, host={"name": "golden"}
            ) as store,
        ):
            live(store)
            state = store.state.copy()
        folder.mkdir(parents=True)
        for kind in ("segments", "manifests"):
            shutil.copytree(layout.root / kind, folder / kind, copy_function=shutil.copyfile)
    text = json.dumps(expected(state, folder), indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
