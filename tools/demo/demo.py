"""`demo`: run all of C10 on a made-up map, and check every promise on the way."""

import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from pipeline import BuildOutcome, BuildRequest, C10ProvisionerConfig, build_cache_provisioner
from pipeline.build.report import BuildReport
from pipeline.errors import ErrorKind as WorkErrorKind
from pipeline.errors import RequestError
from pipeline.progress import Progress
from pipeline.provisioner import CacheProvisioner
from store.base.clock import SystemClock, utc_day
from store.cache.view import open_view
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.errors import CacheUnusableError, ErrorKind
from store.manifest.manifest import parse
from store.reader.flight_cache import FlightCache
from store.trust.go_no_go import ALLOW_UNSIGNED
from store.verify.report import Depth
from store.verify.verify import verify
from tools.command import LOCAL_FOLDER, Answer, Call, print_error, shared_options
from tools.demo.photographs import Finding, ask, table, take_photographs, write_truth
from tools.demo.region import ALTITUDE_M, DemoRegion, land_elsewhere, make_region, with_new_roof
from tools.exit_codes import ExitCode
from tools.output import page, render
from tools.output.progress import shown_progress

_PHOTOGRAPHS: Final = 24
_ELSEWHERE: Final = 12
_LOCK_FILES: Final = frozenset({"build.lock", "journal.mdb-lock"})
_PACKAGES: Final = ("faiss", "onnx", "onnxruntime")


@dataclass(slots=True, kw_only=True)
class _Demonstration:
    """A running demonstration: its folder, its facts, and the promises that were broken."""

    folder: Path
    quiet: bool
    facts: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    sections: int = 0
    chunks_over_a_tile: int = 0

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def open_section(self, title: str, *text: str) -> None:
        """Begin a numbered section."""
        self.sections += 1
        self.print("")
        if not self.quiet:
            click.secho("\n".join(page.fit(f"{self.sections}. {title}")), bold=True)
        for paragraph in text:
            self.print(*render.wrap(paragraph, indent="   "))

    def print(self, *lines: str) -> None:
        """Print lines, unless the answer is JSON."""
        if not self.quiet:
            for line in lines:
                click.echo("\n".join(page.fit(render.plain(line))))

    def print_fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Print labels and values."""
        self.print(*(f"   {line}" for line in render.fields(*pairs, indent=3)))

    def expect(self, promise: str, *, kept: bool) -> None:
        """Say whether a promise was kept."""
        if not kept:
            self.broken.append(promise)
        self.print(f"   {'ok ' if kept else 'NO '} {promise}")

    def provisioner(self, progress: Progress | None = None) -> CacheProvisioner:
        """Return a provisioner with default settings."""
        return build_cache_provisioner(C10ProvisionerConfig(cache_root=self.cache), progress=progress)

    def build(self, progress: Progress | None = None) -> BuildReport:
        """Build the request as it is now."""
        sys.stdout.flush()
        request = BuildRequest.load(self.folder / "request.toml")
        return self.provisioner(progress).build_cache_artifacts(request)


@click.command()
@click.option("--keep", type=LOCAL_FOLDER, metavar="DIR", help="Use the folder DIR and keep it.")
@shared_options(cache=False)
def demo(call: Call, *, keep: Path | None) -> Answer:
    """See all of it work on made-up terrain, in about a minute."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"expected the packages that a build needs, found no {', '.join(missing)}",
            kind=WorkErrorKind.BACKEND_UNAVAILABLE,
            hint="python -m pip install '.[cpu]'",
        )
    began = time.monotonic()
    with _demo_folder(keep) as folder:
        demo_run = _Demonstration(folder=folder, quiet=call.as_json)
        _run_sections(demo_run, kept=keep is not None)
    took = time.monotonic() - began
    demo_run.print("", *_closing_lines(demo_run, took, keep))
    for promise in demo_run.broken:
        print_error(f"expected that {promise}, found otherwise", "please report it with the output above")
    return Answer(
        document={
            "ok": not demo_run.broken,
            "seconds": round(took, 3),
            **demo_run.facts,
            "broken": demo_run.broken,
        },
        code=ExitCode.INTERNAL if demo_run.broken else ExitCode.DONE,
        lasting=True,
    )


@contextmanager
def _demo_folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="c10-demo-") as made:
            yield Path(made)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise CacheUnusableError(
            f"expected an empty or new folder for the demonstration, found something in {keep}",
            kind=ErrorKind.FILE_SYSTEM,
            hint="choose another --keep DIR",
        )
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def _run_sections(demo_run: _Demonstration, *, kept: bool) -> None:
    removed = "" if kept else " It is removed at the end; --keep DIR keeps it."
    demo_run.print(
        *render.wrap(f"A map, a cache, a flight and two mishaps, in {demo_run.folder}.{removed}"),
    )
    region = _paint_map(demo_run)
    first = _build(demo_run)
    if first.outcome is not BuildOutcome.BUILT:
        if first.error is not None:
            print_error(f"{first.error.step}: {first.error.message}", first.error.hint)
        return
    _show_manifest(demo_run)
    _locate(demo_run, region)
    tile = region.middle_tile
    _build_damaged(demo_run, region.path(tile), first)
    original = _build_changed(demo_run, region.path(tile), first)
    _roll_back(demo_run, first)
    region.path(tile).write_bytes(original)
    _build_nothing(demo_run)
    _verify(demo_run)


def _paint_map(demo_run: _Demonstration) -> DemoRegion:
    demo_run.open_section("A map", "Terrain is painted, cut into tiles and saved as from a tile server.")
    began = time.monotonic()
    region = make_region(demo_run.folder)
    demo_run.print_fields(
        (
            ("tiles", f"{region.tiles} of 256 x 256 pixels, zoom 18"),
            ("region", f"{region.width_m / 1000:.1f} km wide, {region.metres_per_pixel:.2f} m per pixel"),
            ("took", render.seconds(time.monotonic() - began)),
        )
    )
    demo_run.facts["tiles"] = region.tiles
    return region


def _build(demo_run: _Demonstration) -> BuildReport:
    demo_run.open_section(
        "Build: c10 build request.toml --cache cache",
        f"The request says that the camera flies {ALTITUDE_M} m above ground. So the network, compiled for this"
        " machine, describes chunks: squares of ground as large as what the camera sees, which overlap. The"
        " descriptors become an index, and one transaction makes it all visible.",
    )
    with shown_progress() as progress:
        report = demo_run.build(progress)
    demo_run.facts["build"] = report.to_document()
    demo_run.print_fields(
        (
            ("outcome", report.outcome),
            ("generation", report.generation),
            ("embedded", f"{report.chunks_embedded:,} chunks, cut from {report.tiles} tiles"),
            ("took", render.seconds(report.seconds)),
        )
    )
    demo_run.expect("the cache shows generation 1", kept=report.generation == 1)
    return report


def _show_manifest(demo_run: _Demonstration) -> None:
    demo_run.open_section(
        "Manifest: c10 manifest --cache cache",
        "It names every file by its SHA-256 and follows from the journal alone, byte for byte.",
    )
    view = open_view(Layout(demo_run.cache))
    head = view.state.generations[1]
    manifest = parse(project(view.state, head))
    index, engine = manifest.index, manifest.descriptor_engine
    geography, level = manifest.body["geography"], manifest.levels[0].level
    demo_run.chunks_over_a_tile = ((1 << level.k) + level.m - 1) ** 2
    demo_run.print_fields(
        (
            ("manifest", manifest.sha256),
            ("identity", manifest.identity),
            (
                "engine",
                f"{engine.model}: {engine.backend} {engine.version}, {render.size(engine.artifact.size)}",
            ),
            (
                "index",
                f"{index.kind}: {index.rows} rows of {index.dimensions}, {render.size(index.artifact.size)}",
            ),
            (
                "area",
                f"{geography['present']} of {geography['wanted']} steps of the lattice are under a chunk",
            ),
        )
    )
    demo_run.expect("the manifest on disk is the one committed", kept=manifest.sha256 == head.manifest_sha256)


def _locate(demo_run: _Demonstration, region: DemoRegion) -> None:
    demo_run.open_section(
        "Fly: c10 query photos/01.jpg --cache cache --altitude M --heading DEG",
        f"{_PHOTOGRAPHS} photographs over the region, in another season and light; heading and altitude as"
        " instruments tell them, a little wrong. Where was each taken? A cache always answers: the margin says"
        " how much less any other place looks like the photograph.",
    )
    photographs = list(take_photographs(region.on_a_later_day(), region.metres_per_pixel, _PHOTOGRAPHS))
    foreign = take_photographs(land_elsewhere(), region.metres_per_pixel, _ELSEWHERE)
    truth = [region.at_pixel(*each.at_px) for each in photographs]
    write_truth(demo_run.folder / "photos", photographs, truth)
    with FlightCache.open(demo_run.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.load_all()
        asked = zip(photographs, truth, strict=True)
        found = [Finding.of(each, ask(cache, each), place) for each, place in asked]
        largest = max(ask(cache, each).margin or 0.0 for each in foreign)
    _show_findings(demo_run, found, largest)


def _show_findings(demo_run: _Demonstration, found: list[Finding], elsewhere: float) -> None:
    """Show how far off answers were; `elsewhere` is the largest margin of a photograph of another place."""
    half = len(found) // 2
    surer = sorted(found, key=lambda each: -each.margin)[:half]
    within = {metres: sum(each.error_m <= metres for each in found) for metres in (20, 50)}
    right = sum(each.error_m <= 50 for each in surer)
    demo_run.print("", *(f"   {line}" for line in table(found)), "")
    demo_run.print_fields(
        (
            ("within 20 m", f"{within[20]} of {len(found)}"),
            ("within 50 m", f"{within[50]} of {len(found)}; {right} of the {half} with the larger margins"),
            ("elsewhere", f"{_ELSEWHERE} photographs of another place: margins up to {elsewhere:.3f}"),
        )
    )
    demo_run.facts["query"] = {
        "photographs": len(found),
        "within": {str(metres): number for metres, number in within.items()},
        "better_half_right": right,
        "elsewhere": {"photographs": _ELSEWHERE, "largest_margin": round(elsewhere, 6)},
        "answers": [each.to_document() for each in found],
    }
    demo_run.expect(f"the {half} with the larger margins are within 50 m", kept=right == half)
    demo_run.expect("none of another place has so large a margin", kept=elsewhere < surer[-1].margin)


def _build_damaged(demo_run: _Demonstration, tile: Path, first: BuildReport) -> None:
    demo_run.open_section(
        "Mishap one: a tile is cut short on the way",
        f"The file {tile.parent.name}/{tile.name} loses half of its bytes; then the same build again.",
    )
    original = tile.read_bytes()
    tile.write_bytes(original[: len(original) // 2])
    report = demo_run.build()
    tile.write_bytes(original)
    shown = open_view(Layout(demo_run.cache)).state.head
    error = report.error
    demo_run.print_fields(
        (
            ("outcome", f"{report.outcome} (exit code 3)"),
            ("step", error.step if error else None),
            ("why", error.message if error else None),
            ("mend", error.hint if error else None),
        )
    )
    demo_run.expect("the build fails", kept=report.outcome is BuildOutcome.FAILED)
    demo_run.expect(
        "the cache still shows generation 1, unchanged",
        kept=shown is not None and shown.manifest_sha256 == first.manifest_sha256,
    )
    demo_run.facts["failed"] = report.to_document()


def _build_changed(demo_run: _Demonstration, tile: Path, first: BuildReport) -> bytes:
    demo_run.open_section(
        "New imagery: one tile changes",
        "A house was built. The whole area is requested again; only what changed is built.",
    )
    original = tile.read_bytes()
    tile.write_bytes(with_new_roof(original))
    report = demo_run.build()
    demo_run.facts["changed"] = report.to_document()
    demo_run.print_fields(
        (
            ("outcome", f"{report.outcome}: generation {report.generation}"),
            ("embedded", f"{report.chunks_embedded:,} of {report.chunks:,} chunks"),
            ("compiled", report.engines_compiled),
            ("took", render.seconds(report.seconds)),
        )
    )
    demo_run.expect(
        "exactly the chunks that show it are embedded, nothing is compiled",
        kept=report.chunks_embedded == demo_run.chunks_over_a_tile and not report.engines_compiled,
    )
    demo_run.expect("it is another generation", kept=report.generation == (first.generation or 0) + 1)
    return original


def _roll_back(demo_run: _Demonstration, first: BuildReport) -> None:
    demo_run.open_section(
        "Mishap two: c10 rollback --why 'wrong imagery'",
        "The new imagery was wrong. Nothing is deleted or renamed: a new generation shows the earlier build.",
    )
    report = demo_run.provisioner().rollback(why="wrong imagery")
    demo_run.facts["rollback"] = report.to_document()
    demo_run.print_fields(
        (
            ("generation", f"{report.generation}, shows build {report.origin}"),
            ("left", f"build {report.previous_origin}; it stays in the journal"),
        )
    )
    demo_run.expect(
        "the content is the first build's, byte for byte", kept=report.body_sha256 == first.body_sha256
    )


def _build_nothing(demo_run: _Demonstration) -> None:
    demo_run.open_section(
        "Nothing to do", "The first imagery is back and is requested once more, as by a nightly job."
    )
    before = _fingerprint(demo_run.cache)
    report = demo_run.build()
    demo_run.facts["warm"] = report.to_document()
    demo_run.print_fields(
        (
            ("outcome", f"{report.outcome}: generation {report.generation}"),
            ("checked", render.plural(report.files_checked, "file")),
            ("embedded", report.chunks_embedded),
            ("writes", report.writes),
            ("took", render.seconds(report.seconds)),
        )
    )
    idle = not (report.writes or report.chunks_embedded or report.engines_compiled)
    demo_run.expect("no work is done", kept=report.outcome is BuildOutcome.REUSED and idle)
    demo_run.expect("no file in the cache is touched", kept=_fingerprint(demo_run.cache) == before)


def _verify(demo_run: _Demonstration) -> None:
    demo_run.open_section(
        "Proof: c10 verify --full --cache cache",
        "Every byte of every generation is hashed; engine and index are loaded as on the aircraft.",
    )
    result = verify(Layout(demo_run.cache), depth=Depth.FULL)
    said = [each.message for each in result.readiness(utc_day(SystemClock())).warnings]
    demo_run.facts["verify"] = {"go": result.go, "files": result.hashed.files, "bytes": result.hashed.size}
    hashed = f"{render.plural(result.hashed.files, 'file')}, {render.size(result.hashed.size)}"
    demo_run.print_fields((("hashed", hashed), *(("warning", each) for each in said)))
    demo_run.expect("GO: nothing is damaged", kept=result.go)


def _closing_lines(demo_run: _Demonstration, took: float, keep: Path | None) -> list[str]:
    if demo_run.broken:
        return [f"{render.plural(len(demo_run.broken), 'promise')} not kept, in {render.seconds(took)}."]
    lines = [f"Every promise was kept, in {render.seconds(took)}."]
    if keep is not None:
        cache = shlex.quote(str(demo_run.cache))
        lines += [f"Look around: c10 log --cache {cache}", f"             c10 show 2 --cache {cache}"]
    return lines


def _fingerprint(root: Path) -> Mapping[str, tuple[int, int, int]]:
    """Return size, time of modification and inode of every file by its path, without lock files."""
    return {
        str(path.relative_to(root)): (found.st_size, found.st_mtime_ns, found.st_ino)
        for path in sorted(root.rglob("*"))
        if path.name not in _LOCK_FILES and (found := path.lstat())
    }
