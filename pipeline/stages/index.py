"""The index stage and the checks after it: index, report of the area, coverage walk."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic

from pipeline.errors import CheckError
from pipeline.index.faiss_builder import FaissIndexBuilder, OnRows
from pipeline.index.plan import IndexJob, plan_index
from pipeline.planning.area_report import AreaReport
from pipeline.planning.tile_packs import require_flown_size
from pipeline.progress import file_count, megabytes
from pipeline.request.options import IndexKind, IndexOptions
from pipeline.stages.checks import INDEX_CHECK, ONE_ANSWER, check_index, require_coverage
from pipeline.stages.context import BuildContext
from pipeline.stages.engines.check_network import WEIGHTS_HINT
from pipeline.stages.extend_index import extend_head_index
from pipeline.stages.survey import StoredBlocks, SurveyedRows, survey_selection
from store.base.identity import index_components, index_key
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.artifacts import ref_of_draft
from store.disk.cell_tables import tables_of_build
from store.disk.write_once import Draft
from store.domain import problem_lines
from store.domain.attachments import GOLDEN, attached
from store.domain.events import CheckFailed, CoverageWalked, Index, IndexBuilt, StepStarted
from store.domain.index_files import named
from store.domain.proof import PROOF, answers_of
from store.domain.state import BuildStatus
from store.errors import ArtifactError
from store.formats.descriptor_block import Block
from store.formats.tables import BlockRow, encode_blocks
from store.manifest.roles import PACKS, golden_role
from store.verify.coverage import Coverage, referenced_by, walk

_MILLION = 1_000_000


@valueclass(frozen=True, slots=True, kw_only=True)
class WrittenIndex:
    """The event that records a written index file, and the library's remark on how it was built."""

    event: IndexBuilt
    note: str


def index_job(
    options: IndexOptions,
    rows: Sequence[BlockRow],
    *,
    table: ArtifactRef,
    networks: Sequence[tuple[str, int]],
    dimensions: int,
    builder: FaissIndexBuilder,
) -> IndexJob:
    """Return the index to write for some blocks, with the options of a request.

    `networks` are vector space and weight of the networks whose descriptors it joins.

    Raises:
        EmbedError: INDEX_FAILED, the request cannot be met with these rows.
    """
    count = sum(row.rows for row in rows)
    plan = plan_index(options, count=count, dimensions=dimensions)
    components = index_components(
        networks=networks, blocks=table.sha256, options=plan.to_document(), library=builder.library(plan.kind)
    )
    return IndexJob(count=count, dimensions=dimensions, plan=plan, components=components, table=table)


def write_index(
    job: IndexJob,
    rows: Iterable[Block],
    *,
    builder: FaissIndexBuilder,
    new: Draft,
    on_progress: OnRows | None = None,
) -> WrittenIndex:
    """Write the index of all rows to a draft file.

    Raises:
        EmbedError: INDEX_FAILED; see `FaissIndexBuilder.build`.
        OSError: The draft cannot be written.
    """
    began = monotonic()
    facts = builder.build(
        rows, job.count, job.dimensions, job.plan, fd_path=new.path, on_progress=on_progress
    )
    event = IndexBuilt(
        key=index_key(job.components),
        components=job.components,
        artifact=ref_of_draft(new),
        blocks=job.table,
        kind=str(job.plan.kind),
        metric=facts.metric,
        dimensions=job.dimensions,
        rows=facts.ntotal,
        elapsed_ms=round((monotonic() - began) * 1000),
    )
    return WrittenIndex(event=event, note=facts.note)


def prepare_index(run: BuildContext, rows: Sequence[BlockRow]) -> Index:
    """Return a checked index of the blocks: a known one, the head's extended, or a new one.

    Raises:
        EmbedError: The index could not be built.
        CheckError: It does not find its own tiles; it will not be used again.
    """
    run.enter("index")
    job = index_job(
        run.inputs.request.index,
        rows,
        table=run.put(encode_blocks(rows)),
        networks=run.inputs.networks,
        dimensions=sum(run.embedder(model).signature["dimensions"] for model in run.inputs.descriptors),
        builder=run.ports.index,
    )
    known = run.store.state.step_cache.indexes.get(index_key(job.components))
    if known is not None and run.store.artifacts.damage(known.artifact) is None:
        run.hashed.add(known.artifact.sha256)
        run.reuse("index", {"index": known.key})
    else:
        known = extend_head_index(run, rows, job)
        if known is not None:
            failed = _check_failure(run, known, rows)
            if failed is None:
                return known
            run.ports.progress.say(
                f"a new index is written: the extended one did not pass its check, {failed.why}"
            )
            run.enter("index")
        known = _write_and_record(run, rows, job)
    failed = _check_failure(run, known, rows)
    if failed is not None:
        raise CheckError(
            f"expected the index to find its own tiles, found {failed.why}",
            hint=_recall_hint(known.kind, failed.why),
            subject="index",
        )
    return known


def _recall_hint(kind: str, why: str) -> str:
    if kind == IndexKind.FLAT or ONE_ANSWER in why:
        return WEIGHTS_HINT
    if kind == IndexKind.HNSW:
        return 'raise index.ef or index.m, set index.kind = "flat", or lower checks.recall'
    return 'raise index.m or index.nprobe, set index.kind = "flat", or lower checks.recall'


def _check_failure(run: BuildContext, known: Index, rows: Sequence[BlockRow]) -> CheckFailed | None:
    """Check an index unless it has passed already; return the result if it fails."""
    least = run.inputs.request.checks.recall
    if _has_passed(run, known, least):
        return None
    run.enter("check", "index")
    progress = run.ports.progress
    progress.start("check index", total=sum(row.rows for row in rows), unit="rows")
    seen = SurveyedRows(run.inputs.selection.levels)

    def see(block: Block) -> None:
        seen.add(block)
        progress.advance(block.rows)

    verdict = check_index(run.store.artifacts, known, rows, least=least, on_block=see)
    run.append(verdict)
    progress.finish()
    if isinstance(verdict, CheckFailed):
        return verdict
    run.surveyed = seen
    return None


def _has_passed(run: BuildContext, known: Index, least: float) -> bool:
    """Say whether an index passed its check with at least the recall that is required now."""
    steps = run.store.state.step_cache
    if not steps.has_passed(INDEX_CHECK, known.key, known.artifact.sha256):
        return False
    recall = steps.passed[INDEX_CHECK, known.key].measured.get("recall_ppm", _MILLION)
    return bool(recall >= round(least * _MILLION))


def _write_and_record(run: BuildContext, rows: Sequence[BlockRow], job: IndexJob) -> IndexBuilt:
    run.append(StepStarted(kind="index", subjects=(), key=index_key(job.components)))
    artifacts, progress = run.store.artifacts, run.ports.progress
    progress.start("index", total=job.count, unit="rows")
    done = 0

    def advance(now: int, _: int) -> None:
        nonlocal done
        progress.advance(now - done)
        done = now

    with artifacts.draft() as new:
        made = write_index(
            job, StoredBlocks(artifacts, rows), builder=run.ports.index, new=new, on_progress=advance
        )
        artifact = artifacts.publish(new, made.event.artifact)
    run.hashed.add(artifact.sha256)
    run.append(made.event)
    progress.finish(", ".join(filter(None, (made.event.kind, megabytes(artifact.size), made.note))))
    return made.event


def check_area(run: BuildContext, rows: Sequence[BlockRow] | None) -> AreaReport:
    """Report on the area; raise `CheckError` if too little of it can be localised, or nothing.

    Before anything is embedded (no `rows`), this finds what no embedding can mend: that too few tiles are present.
    """
    run.enter("coverage", "area")
    progress = run.ports.progress
    if rows is not None:
        progress.start("check area", total=sum(row.rows for row in rows), unit="rows")
    run.geography = survey_selection(
        run.inputs.selection, rows, run.store.artifacts, seen=run.surveyed, on_rows=progress.advance
    )
    if rows is not None:
        if run.surveyed is not None:
            progress.advance(sum(row.rows for row in rows))
        progress.finish()
    run.surveyed = None
    require_coverage(run.geography, run.inputs.request.coverage.min_fraction)
    return run.geography


def walk_coverage(
    run: BuildContext,
    geography: AreaReport,
    index: Index,
    rows: Sequence[BlockRow],
    packs: Sequence[BlockRow] = (),
) -> Coverage:
    """Check that every file that the manifest will name is intact, and record the result.

    Args:
        run: The build.
        geography: The report of the area.
        index: The index.
        rows: The blocks.
        packs: The packs of carried tiles.

    Raises:
        ManifestCoverageError: A file is missing or damaged; or, when strict, there are foreign files.
        CheckError: All files together are larger than `carry.max_bytes`.
    """
    run.enter("coverage", "artifacts")
    report = run.put(geography.encoded())
    named = _files_to_name(run, report, index, rows, packs)
    require_flown_size(run.inputs.request, sum(size for _, size in named.values()))
    unread = sum(size for digest, (_, size) in named.items() if digest not in run.hashed)
    run.ports.progress.start("verify", total=unread, unit="bytes")
    found = walk(
        run.store.artifacts,
        named,
        referenced=referenced_by(run.store.state, _kept_files(run)),
        full=True,
        hashed=frozenset(run.hashed),
        on_progress=run.ports.progress.advance,
    )
    run.ports.progress.finish(file_count(found.files))
    found.require(strict=run.strict, hint="c10 build (runs the damaged steps again)")
    run.counts.checked = found.files
    run.append(
        CoverageWalked(
            files=found.files,
            size=found.size,
            unreferenced=len(found.unreferenced),
            problems=problem_lines.shorten([str(each) for each in found.foreign_files]),
            geography=report,
            wanted=geography.wanted,
            present=geography.present,
            featureless=geography.featureless_count,
            skipped=len(geography.skipped),
        )
    )
    return found


def _files_to_name(
    run: BuildContext,
    report: ArtifactRef,
    index: Index,
    rows: Sequence[BlockRow],
    packs: Sequence[BlockRow],
) -> dict[str, tuple[str, int]]:
    build = run.store.state.builds[run.number]
    refs = {
        "geographic report": report,
        **dict(named(index)),
        **{f"engine {name}": event.artifact for name, event in run.engines.items()},
        **{role: ref for row in rows for role, ref in row.files("block")},
        **{role: ref for row in packs for role, ref in row.files("pack")},
    }
    for name, stand_in in run.stand_ins.items():
        golden = attached(stand_in).get(GOLDEN)
        if golden is not None:
            refs[golden_role(name, alone=len(run.inputs.descriptors) == 1)] = golden
    if build.tiles is not None:
        refs["tile table"] = build.tiles.table
    if build.carried is not None:
        refs[PACKS] = build.carried.table
    if build.proof is not None:
        refs[PROOF] = answers_of(build.proof)
    refs |= dict(build.given())
    return {ref.sha256: (role, ref.size) for role, ref in refs.items()}


def _kept_files(run: BuildContext) -> Iterator[ArtifactRef]:
    """Yield what the tables of committed builds that are kept list, except damaged tables."""
    seen: set[str] = set()
    collected = run.store.state.collected
    for build in run.store.state.builds.values():
        if build.status is not BuildStatus.COMMITTED or build.number in collected:
            continue
        for table in tables_of_build(build):
            if table.ref.sha256 not in seen:
                seen.add(table.ref.sha256)
                with suppress(ArtifactError):
                    yield from (ref for _, ref in table.files(run.store.artifacts))
