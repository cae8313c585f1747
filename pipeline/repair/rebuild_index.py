"""Make the file of an index, and its delta, again: each from the blocks, and only if the bytes come out."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.index.plan import IndexJob, IndexPlan
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.progress import NoProgress
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.request.options import IndexKind, Storage
from pipeline.stages.extend_index import EarlierBlocks, extend_index
from pipeline.stages.index import StoredBlocks, write_index
from store.domain.events import Index, IndexBuilt, IndexExtended
from store.domain.index_files import whole_rows
from store.errors import ArtifactError
from store.formats.descriptor_block import Block
from store.formats.index_delta import decode as decode_delta
from store.formats.tables import decode_blocks


def descriptor_index(context: RebuildContext, event: Index) -> RebuiltArtifact:
    """Build the file of an index again: from its blocks, or from those of now without what its delta says that came."""
    job = _job_of(event)
    context.begin("index", (), event.key)
    with context.artifacts.draft() as new:
        again = write_index(job, _blocks_under(context, event), builder=context.recipe.ports.index, new=new)
        data = Path(new.path).read_bytes()
    library, here = event.components["library"], context.recipe.ports.index.library(job.plan.kind)
    note = "" if here == library else f" (made by {library}, here is {here})"
    return RebuiltArtifact(
        data=data, event=None if isinstance(event, IndexExtended) else again.event, note=note
    )


def index_delta(context: RebuildContext, event: IndexExtended) -> RebuiltArtifact:
    """Tell again what changed since the file of an index was written, from the blocks of both."""
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


def _blocks_under(context: RebuildContext, event: Index) -> Iterable[Block]:
    """The blocks that the file of an index was written from."""
    rows = decode_blocks(context.artifacts.read(event.blocks))
    if not isinstance(event, IndexExtended):
        return StoredBlocks(context.artifacts, rows)
    try:
        base = _base_of(context, event)
        before = decode_blocks(context.artifacts.read(base.blocks))
    except (ArtifactError, UnavailableError):
        before = ()
    if before and all(context.artifacts.damage(row.ref) is None for row in before):
        return StoredBlocks(context.artifacts, before)
    return EarlierBlocks(
        StoredBlocks(context.artifacts, rows), decode_delta(context.artifacts.read(event.artifact))
    )


def _base_of(context: RebuildContext, event: IndexExtended) -> IndexBuilt:
    """How the file was written that an index extends."""
    for fact in reversed(context.facts):
        match fact.event:
            case IndexBuilt(artifact=artifact) as base if artifact == event.base:
                return base
            case _:
                pass
    raise UnavailableError(f"expected index {event.base.sha256[:12]} in the journal, found none")


def _job_of(event: Index) -> IndexJob:
    """What the file of an index was written as."""
    options = event.components["options"]
    try:
        plan = IndexPlan(
            kind=IndexKind(options["kind"]),
            storage=Storage(options["storage"]),
            **{name: options[name] for name in ("m", "ef", "lists", "nprobe")},
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
