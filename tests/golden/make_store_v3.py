"""Write the golden cache whose manifests have format 3: chunks of ground have the descriptors.

    python -m tests.golden.make_store_v3 FOLDER

`make_store_v1.py` has the rest of the history of caches; the folder has the same form.
"""

import sys
from pathlib import Path

from store.cache.writer import CacheWriter
from tests.golden.make_store_v2 import CHANGED, write
from tests.played_builds import Scenario, play


def make(folder: Path) -> None:
    """Write the folder, which does not exist yet."""
    write(folder, _live)


def _live(store: CacheWriter) -> None:
    play(store, Scenario())
    play(store, Scenario(flight="f2", chunks=True))
    play(store, Scenario(flight="f3", chunks=True, tiles=CHANGED, extend=True))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
