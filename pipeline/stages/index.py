"""The index stage and what follows it: index, survey of the area, coverage walk."""

from collections.abc import Iterator, Sequence
from time import monotonic

import numpy as np

from pipeline.builtin_model.place import FEATURELESS_BELOW
from pipeline.errors import CheckError
from pipeline.index.plan import IndexPlan, resolve
from pipeline.planning.area_report import Geography
from pipeline.stages.checks import INDEX_CHECK, check_index, require_coverage
from pipeline.stages.context import Run
from pipeline.stages.extend_index import extended_index
from pipeline.tiles.selection import Selection
from store.base import canonical_json
from store.base.canonical_json import Document
from store.base.identity import index_components, index_key, tile_of
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.attachments import GOLDEN, attached
from store.domain.events import (
    CheckFailed,
    CoverageWalked,
    Index,
    IndexBuilt,
    StepReused,
    StepStarted,
)
from store.domain.index_files import named
from store.domain.state import BuildStatus
from store.errors import ArtifactError
from store.formats import descriptor_block
from store.formats.descriptor_block import Block
from store.formats.tables import BlockRow, decode_blocks, encode_blocks
from store.verify.coverage import Coverage, block_role, referenced_by, walk

_MILLION = 1_000_000


def build_index(run: Run, rows: Sequence[BlockRow]) -> Index:
    """Make sure that the blocks have a checked index.

    Raises:
        EmbedError: The index could not be built.
        CheckError: It does not find its own tiles; it will not be used again.
    """
    run.enter("index")
    table = run.put(encode_blocks(rows))
    count = sum(row.rows for row in rows)
    dimensions = run.embedder.signature["dimensions"]
    plan = resolve(run.inputs.request.index, count=count, dimensions=dimensions)
    components = index_components(
        space=run.inputs.space,
        blocks=table.sha256,
        options=plan.to_document(),
        library=run.ports.index.library(plan.kind),
    )
    key = index_key(components)
    known = run.store.state.memo.indexes.get(key)
    if known is not None and run.store.artifacts.damage(known.artifact) is None:
        run.hashed.add(known.artifact.sha256)
        known = _reused(run, known)
    else:
        extended = extended_index(run, rows, plan, components, table)
        if extended is not None:
            known = _reused(run, extended[0]) if extended[1] else extended[0]
            failed = _failed(run, known, rows)
            if failed is None:
                return known
            run.ports.progress.say(
                f"a new index is written: the extended one did not pass its check, {failed.why}"
            )
            run.enter("index")
        known = _build(run, rows, plan, components, table)
    failed = _failed(run, known, rows)
    if failed is not None:
        raise CheckError(
            f"expected the index to find its own tiles, found {failed.why}",
            hint="raise index.ef or index.m, or lower checks.recall",
            subject="index",
        )
    return known


def _reused(run: Run, known: Index) -> Index:
    run.append(StepReused(kind="index", count=1, keys={"index": known.key}))
    run.counts.reused += 1
    return known


def _failed(run: Run, known: Index, rows: Sequence[BlockRow]) -> CheckFailed | None:
    """Check an index that has not passed yet; returns the outcome if it failed."""
    least = run.inputs.request.checks.recall
    if _has_passed(run, known, least):
        return None
    run.enter("check", "index")
    verdict = check_index(run.store.artifacts, known, rows, least=least)
    run.append(verdict)
    return verdict if isinstance(verdict, CheckFailed) else None


def _has_passed(run: Run, known: Index, least: float) -> bool:
    """Tell whether an index passed its check, and for no less than is asked for now."""
    memo = run.store.state.memo
    if not memo.has_passed(INDEX_CHECK, known.key, known.artifact.sha256):
        return False
    found = memo.passed[INDEX_CHECK, known.key].measured.get("recall_ppm", _MILLION)
    return bool(found >= round(least * _MILLION))


def _build(
    run: Run, rows: Sequence[BlockRow], plan: IndexPlan, components: Document, table: ArtifactRef
) -> IndexBuilt:
    key, count = index_key(components), sum(row.rows for row in rows)
    dimensions = run.embedder.signature["dimensions"]
    run.append(StepStarted(kind="index", subjects=(), key=key))
    began, progress = monotonic(), run.ports.progress
    progress.start("index", total=count, unit="rows")
    done = 0

    def advance(now: int, _: int) -> None:
        nonlocal done
        progress.advance(now - done)
        done = now

    with run.store.artifacts.draft() as new:
        facts = run.ports.index.build(
            StoredBlocks(run.store.artifacts, rows),
            count,
            dimensions,
            plan,
            fd_path=new.path,
            on_progress=advance,
        )
        artifact = run.store.artifacts.publish(new)
    run.hashed.add(artifact.sha256)
    event = IndexBuilt(
        key=key,
        components=components,
        artifact=artifact,
        blocks=table,
        kind=str(facts.plan.kind),
        metric=facts.metric,
        dimensions=facts.dimensions,
        rows=facts.ntotal,
        elapsed_ms=round((monotonic() - began) * 1000),
    )
    run.append(event)
    progress.finish(", ".join(filter(None, (str(plan.kind), f"{artifact.size / 1e6:.1f} MB", facts.note))))
    return event


class StoredBlocks:
    """The blocks of a table, read and checked one at a time, as often as they are asked for."""

    def __init__(self, artifacts: Artifacts, rows: Sequence[BlockRow]) -> None:
        self._artifacts, self._rows = artifacts, rows

    def __iter__(self) -> Iterator[Block]:
        for row in self._rows:
            yield descriptor_block.decode(self._artifacts.read(row.ref))


def survey(run: Run, rows: Sequence[BlockRow]) -> Geography:
    """Look at what became of every wanted tile.

    Raises:
        CheckError: Too little of the area can be localised.
    """
    run.enter("coverage", "area")
    geography = geography_of(run.store.artifacts, run.inputs.selection, rows)
    run.geography = geography
    require_coverage(geography.localisable, run.inputs.request.coverage.min_fraction)
    return geography


def geography_of(artifacts: Artifacts, selection: Selection, rows: Sequence[BlockRow]) -> Geography:
    """Tell what became of every wanted tile.

    Raises:
        ArtifactError: A block is missing or damaged.
    """
    indexed, featureless = [np.zeros(0, np.int64)], list[int]()
    for row in rows:
        block = descriptor_block.decode(artifacts.read(row.ref))
        indexed.append(block.ids.astype(np.int64))
        featureless.extend(block.ids[block.texture < FEATURELESS_BELOW].tolist())
    absent = np.isin(selection.tiles.ids, np.concatenate(indexed), invert=True)
    skipped = map(tuple, selection.tiles.places[absent].tolist())
    return Geography(
        wanted=selection.wanted,
        present=len(selection.tiles),
        holes=tuple(map(tuple, selection.holes.array.tolist())),
        featureless=tuple(tile_of(identifier)[:3] for identifier in featureless),
        skipped=tuple(skipped),
        excluded=tuple(map(tuple, selection.excluded.places.tolist())),
    )


def walk_coverage(run: Run, geography: Geography, index: Index, rows: Sequence[BlockRow]) -> Coverage:
    """Hold everything that the manifest will name against the tree, and record it.

    Raises:
        ManifestCoverageError: Something named is not whole; or, when strict, there are strangers.
    """
    run.enter("coverage", "artifacts")
    report = run.put(canonical_json.encode(geography.to_document()))
    named = _named(run, report, index, rows)
    unread = sum(size for digest, (_, size) in named.items() if digest not in run.hashed)
    run.ports.progress.start("verify", total=unread, unit="bytes")
    found = walk(
        run.store.artifacts,
        named,
        referenced=referenced_by(run.store.state, _tables(run)),
        full=True,
        hashed=frozenset(run.hashed),
        on_progress=run.ports.progress.advance,
    )
    run.ports.progress.finish(f"{found.files} files")
    found.require(strict=run.strict, hint="c10 build (runs the damaged steps again)")
    run.counts.checked = found.files
    run.append(
        CoverageWalked(
            files=found.files,
            size=found.size,
            unreferenced=len(found.unreferenced),
            problems=found.strangers,
            geography=report,
            wanted=geography.wanted,
            present=geography.present,
            featureless=len(geography.featureless),
            skipped=len(geography.skipped),
        )
    )
    return found


def _named(
    run: Run, report: ArtifactRef, index: Index, rows: Sequence[BlockRow]
) -> dict[str, tuple[str, int]]:
    build = run.store.state.builds[run.number]
    refs = {
        "geographic report": report,
        **dict(named(index)),
        **{f"engine {name}": event.artifact for name, event in run.engines.items()},
        **{block_role(row): row.ref for row in rows},
    }
    golden = None if run.stand_in is None else attached(run.stand_in).get(GOLDEN)
    if golden is not None:
        refs["golden answers"] = golden
    if build.tiles is not None:
        refs["tile table"] = build.tiles.table
    if build.calibration is not None:
        refs["calibration"] = build.calibration
    return {ref.sha256: (role, ref.size) for role, ref in refs.items()}


def _tables(run: Run) -> Iterator[tuple[BlockRow, ...]]:
    """The block tables of committed builds that are kept; one that is damaged names nothing."""
    seen: set[str] = set()
    collected = run.store.state.collected
    for build in run.store.state.builds.values():
        if build.status is not BuildStatus.COMMITTED or build.index is None or build.number in collected:
            continue
        table = build.index.blocks
        if table.sha256 not in seen:
            seen.add(table.sha256)
            try:
                yield decode_blocks(run.store.artifacts.read(table))
            except ArtifactError:
                continue
