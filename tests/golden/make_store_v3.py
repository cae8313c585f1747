"""Write the golden cache whose manifests have format 3: chunks of ground have the descriptors.

    python tests/golden/make_store_v3.py FOLDER

`make_store_v1.py` has the rest of the history of caches; the folder has the same form.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.testing import FakeClock
from tests.golden.make_store_v1 import CACHE_ID, expected
from tests.played_builds import Scenario, play


def make(folder: Path) -> None:
    """Write the folder, which does not exist yet."""
    changed = {(0, 0): "a", (1, 0): "changed", (20, 3): "c"}
    with tempfile.TemporaryDirectory() as scratch:
        layout = Layout(Path(scratch, "cache"))
        with (
            mock.patch("secrets.token_hex", return_value=CACHE_ID),
            CacheWriter.open(
                layout, clock=FakeClock(), create=True, reserve_bytes=0, host={"name": "golden"}
            ) as store,
        ):
            play(store, Scenario())
            play(store, Scenario(flight="f2", chunks=True))
            play(store, Scenario(flight="f3", chunks=True, tiles=changed, extend=True))
            state = store.state.copy()
        folder.mkdir(parents=True)
        for kind in ("segments", "manifests"):
            shutil.copytree(layout.root / kind, folder / kind, copy_function=shutil.copyfile)
    text = json.dumps(expected(state, folder), indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
