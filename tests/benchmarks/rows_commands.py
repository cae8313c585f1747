"""Rows about commands, start-up included: a build that is up to date, and `c10 status`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.request.options import IndexKind, IndexOptions
from tests.benchmarks.caches import ZOOM, around, places
from tests.benchmarks.measuring import Row, Settings, at_least, at_most, in_turns, row
from tests.small_builds import Site, picture


def warm_command(settings: Settings) -> Iterator[Row]:
    """`c10 build` where nothing changed against `dvc status` of the same folder."""
    import dvc  # noqa: F401 - only whether it is there

    number = settings.size(5_000, 20_000)
    site = Site(settings.place("command"))
    for place, (z, x, y) in enumerate(places(number)):
        site.write(f"tiles/{z}/{x}/{y}.png", picture(place))
    flat = IndexOptions(kind=IndexKind.FLAT)
    request = site.write_request(bbox=around(number), zoom=(ZOOM, ZOOM), index=flat)
    environ = _environ() | {"XDG_CACHE_HOME": str(site.root / "xdg"), "DVC_NO_ANALYTICS": "1"}
    build = [*_command("c10"), "build", str(request), "--cache", str(site.cache), "--json"]
    _run(build, site.root, environ)
    for arguments in (["init", "--no-scm", "-q"], ["add", "-q", "tiles"]):
        _run([*_command("dvc"), *arguments], site.root, environ)

    def ours() -> None:
        outcome = json.loads(_run(build, site.root, environ))["outcome"]
        if outcome != "reused":
            raise SystemExit(f"expected a build that is up to date, found {outcome}")

    def theirs() -> None:
        output = _run([*_command("dvc"), "status"], site.root, environ)
        if b"up to date" not in output:
            raise SystemExit(f"expected nothing to have changed, found {output!r}")

    pairs = in_turns(ours, theirs, pairs=settings.pairs)
    yield row(
        "warm-command",
        f"up-to-date build as a command, {number:,} tiles",
        "dvc status, same folder",
        at_least(3),
        pairs,
        rate=True,
    )


def startup(settings: Settings) -> Iterator[Row]:
    """`c10 status` against the import of three libraries that it needs."""
    site = Site(settings.place("startup"))
    for place in range(16):
        site.write(f"tiles/6/{place}/0.png", picture(place))
    report = site.build()
    if report.error is not None:
        raise SystemExit(f"expected a build, found {report.error}")
    status = [*_command("c10"), "status", "--cache", str(site.cache)]
    peer = [sys.executable, "-c", "import click, lmdb, msgpack"]
    pairs = in_turns(
        partial(_run, status, site.root, _environ()),
        partial(_run, peer, site.root, _environ()),
        pairs=3 * settings.pairs,
    )
    yield row(
        "startup", "c10 status", 'python -c "import click, lmdb, msgpack"', at_most(1.3), pairs, rate=False
    )


def _environ() -> dict[str, str]:
    """Return this environment, with compiled modules kept, as is the default of Python."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _command(name: str) -> list[str]:
    """Return the path of a console script of this environment."""
    return [str(Path(sys.executable).with_name(name))]


def _run(command: list[str], folder: Path, environ: dict[str, str]) -> bytes:
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"expected {command[:2]} to succeed, found {done.returncode}: {done.stderr[-2000:]!r}"
        )
    return done.stdout
