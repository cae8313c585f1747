"""What `c10 build` loads where there is nothing to do: people start it over and over, from timers too."""

import json
import os
from datetime import date

from pipeline import BuildRequest, C10ProvisionerConfig, build_cache_provisioner
from pipeline.request.options import CoverageOptions, IndexKind, IndexOptions
from tests.child_python import run_python
from tests.small_builds import Site, spread

ONLY_FOR_WORK = (
    *("faiss", "onnxruntime", "onnx", "PIL", "ray", "sqlite3", "rich", "cryptography"),
    *("pipeline.build.attempt", "pipeline.processes.pool", "pipeline.repair.repair", "store.cache.writer"),
)

COMMAND = f"""
import sys
from tools.cli import main
try:
    main()
finally:
    print(*(name for name in {ONLY_FOR_WORK!r} if name in sys.modules), file=sys.stderr)
"""


def test_a_build_that_finds_nothing_to_do_loads_nothing_that_only_work_needs(tmp_path, monkeypatch):
    site = Site(tmp_path / "site")
    site.write_tiles(spread())
    path = site.write_request(
        tiles={"captured": date(2026, 1, 1), "as_of": date(2026, 2, 1)},
        index=IndexOptions(kind=IndexKind.FLAT),
        coverage=CoverageOptions(min_fraction=0.0),
    )
    home = tmp_path / "home"
    # Files that were just written are remembered, too: nothing writes to these again.
    for module in ("pipeline.tiles.digest_cache", "pipeline.engines.models.network_cache"):
        monkeypatch.setattr(f"{module}.RACY_NS", -(10**12))
    config = C10ProvisionerConfig(cache_root=site.cache, digest_cache_folder=home / "c10")
    report = build_cache_provisioner(config).build_cache_artifacts(BuildRequest.load(path))
    assert report.error is None

    done = run_python(
        COMMAND,
        "build",
        path,
        "--cache",
        site.cache,
        "--json",
        env=os.environ | {"XDG_CACHE_HOME": str(home)},
    )
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["writes"], answer["tiles"]) == ("reused", 0, 40)
    assert done.stderr.splitlines()[-1] == ""
