"""Rebuild the file of an index and its delta, each from the blocks."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.index.plan import IndexJob, IndexPlan
from pipeline.planning.recorded_inputs import UnavailableError, last_event
from pipeline.progress import NoProgress
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.request.options import IndexKind, Storage
from pipeline.stages.extend_index import EarlierBlocks, extend_index
from pipeline.stages.index import write_index
from pipeline.stages.survey import StoredBlocks
from store.domain.events import Index, IndexBuilt, IndexExtended
from store.domain.index_files import whole_rows
from store.errors import ArtifactError, TranslateOSErrors
from store.formats import index_delta
from store.formats.descriptor_block import Block
from store.formats.tables import decode_blocks


def rebuild_file(context: RebuildContext, event: Index) -> RebuiltArtifact:
    """Write the file of an index again, from the blocks that it was first written from."""
    job = _recorded_job(event)
    context.begin("index", (), event.key)
    with context.artifacts.draft() as new:
        again = write_index(job, _blocks_of_file(context, event), builder=context.inputs.ports.index, new=new)
        with TranslateOSErrors("index in the scratch folder"):
            data = Path(new.path).read_bytes()
    library, here = event.components["library"], context.inputs.ports.index.library(job.plan.kind)
    note = "" if here == library else f" (made by {library}, here is {here})"
    return RebuiltArtifact(
        data=data, event=None if isinstance(event, IndexExtended) else again.event, note=note
    )


def rebuild_delta(context: RebuildContext, event: IndexExtended) -> RebuiltArtifact:
    """Compute the delta of an index again, from the blocks of then and now."""
    context.begin("index", (), event.key)
    again = extend_index(
        _base_of(context, event),
        decode_blocks(context.artifacts.read(event.blocks)),
        table=event.blocks,
        components=event.components,
        artifacts=context.artifacts,
        progress=NoProgress(),
    )
    if again is None:
        raise AssertionError("an extension without a limit ends")
    return RebuiltArtifact(data=again.data, event=again.event)


def _blocks_of_file(context: RebuildContext, event: Index) -> Iterable[Block]:
    """Return the blocks that the file of an index was written from, restored by the delta if need be."""
    rows = decode_blocks(context.artifacts.read(event.blocks))
    if not isinstance(event, IndexExtended):
        return StoredBlocks(context.artifacts, rows)
    try:
        base = _base_of(context, event)
        before = decode_blocks(context.artifacts.read(base.blocks))
    except (ArtifactError, UnavailableError):
        before = ()
    if before and all(context.artifacts.damage(ref) is None for row in before for ref in row.refs):
        return StoredBlocks(context.artifacts, before)
    return EarlierBlocks(
        StoredBlocks(context.artifacts, rows), index_delta.decode(context.artifacts.read(event.artifact))
    )


def _base_of(context: RebuildContext, event: IndexExtended) -> IndexBuilt:
    """Return the event of the file that an index extends."""
    base = last_event(context.history, IndexBuilt, lambda made: made.artifact == event.base)
    if base is not None:
        return base
    raise UnavailableError(f"expected index {event.base.sha256[:12]} in the journal, found none")


def _recorded_job(event: Index) -> IndexJob:
    """Return the job that wrote the file of an index."""
    options = event.components["options"]
    try:
        plan = IndexPlan(
            kind=IndexKind(options["kind"]),
            storage=Storage(options["storage"]),
            **{name: options[name] for name in ("m", "ef", "lists", "nprobe")},
            links_equal="graph" not in options,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UnavailableError(
            f"descriptor index: expected options this version knows, found {error}"
        ) from error
    if plan.to_document() != dict(options):
        raise UnavailableError(
            f"descriptor index: expected options this version knows, found {dict(options)}"
        )
    return IndexJob(
        count=whole_rows(event),
        dimensions=event.dimensions,
        plan=plan,
        components=event.components,
        table=event.blocks,
    )
