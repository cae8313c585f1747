"""Make the artifacts of a committed build again, each by the one step that made it, and only if the bytes come out.

Calibration, tile table, engines, blocks and geographic report need what the build was made from, which its start
recorded; block table and index follow from the journal and the other artifacts alone. Nothing takes a name but bytes
with that digest: what was committed stays what it was.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.embed.cells import CellKey
from pipeline.embed.reusable_rows import KnownRows
from pipeline.planning.recorded_inputs import Recipe, UnavailableError
from pipeline.ports import Ports
from pipeline.stages.compile import compile_network
from pipeline.stages.compile_progress import CompileProgress
from pipeline.stages.embed import (
    CellStep,
    EmbeddedCell,
    block_row,
    embed_cells,
    embed_windows,
    engine_spec,
)
from pipeline.stages.index import area_of, survey_area
from pipeline.stages.stand_in import golden_answers
from store.base.identity import CELL_SHIFT, cell_components, cell_key, descriptor_id, tile_of
from store.base.preprocessing import Preprocessing
from store.base.values import ArtifactRef
from store.cache.writer import Store
from store.disk.artifacts import Artifacts
from store.domain.events import (
    CellEmbedded,
    EngineCompiled,
    Event,
    Index,
    IndexBuilt,
    IndexExtended,
    StepStarted,
)
from store.domain.state import FLIGHT, Fact
from store.formats.tables import BlockRow, decode_tiles, encode_blocks, encode_tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What making things again needs.

    Attributes:
        store: The cache, open for writing.
        facts: Everything the journal says.
        batcher: Embeds tiles.
        ports: What else does the work.
        scratch: A folder for temporary files, outside of the cache.
    """

    store: Store
    facts: Sequence[Fact]
    batcher: DescriptorBatcher
    ports: Ports
    scratch: Path

    @property
    def artifacts(self) -> Artifacts:
        """Where artifacts are."""
        return self.store.artifacts

    def begin(self, kind: str, subjects: tuple[str, ...], key: str) -> None:
        """Record that a step is run again."""
        self.store.append(StepStarted(kind=kind, subjects=subjects, key=key), build=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Bytes that came out as they were committed, and the step's result, if a step of the memo made them."""

    data: bytes
    event: Event | None = None


class OtherBytesError(UnavailableError):
    """The step ran, and gave other bytes than the ones that were committed."""

    def __init__(self, what: str, expected: ArtifactRef, found: bytes | str) -> None:
        digest = found if isinstance(found, str) else hashlib.sha256(found).hexdigest()
        super().__init__(f"{what}: expected SHA-256 {expected.sha256[:12]} again, found {digest[:12]}")


def calibration(recipe: Recipe, ref: ArtifactRef) -> Made:
    """Read the calibration again."""
    return same("calibration", ref, recipe.calibration())


def tile_table(recipe: Recipe, ref: ArtifactRef) -> Made:
    """Select the tiles again."""
    tiles = recipe.tiles().tiles
    data = encode_tiles((descriptor_id(tile.z, tile.x, tile.y), tile.sha256, tile.captured) for tile in tiles)
    return same("tile table (digests are the same, capture dates may not be)", ref, data)


def geography(shop: Workshop, recipe: Recipe, ref: ArtifactRef, rows: Sequence[BlockRow]) -> Made:
    """Survey the area again."""
    found = survey_area(area_of(recipe.tiles()), rows, shop.artifacts)
    return same("geographic report", ref, found.encoded())


def engine(shop: Workshop, recipe: Recipe, event: EngineCompiled) -> Made:
    """Compile a network again."""
    model, compiler = recipe.model(event), recipe.compiler(event)
    shop.begin("engine", (event.model,), event.key)
    told = CompileProgress.started(shop.ports.progress, event.model)
    again = compile_network(model, compiler, scratch=shop.scratch, host=shop.ports.host, on_progress=told)
    shop.ports.progress.finish(f"{len(again.engine) / 1e6:.1f} MB")
    version = str(event.components["version"])
    what = f"engine {event.model}" if event.purpose == FLIGHT else f"{event.purpose} engine {event.model}"
    if compiler.version != version:
        what += f" (made by {compiler.backend} {version}, here is {compiler.version})"
    made, found = same(what, event.artifact, again.engine), again.event
    return replace(made, event=replace(event, elapsed_ms=found.elapsed_ms, log=found.log, host=found.host))


def golden(shop: Workshop, recipe: Recipe, event: EngineCompiled, ref: ArtifactRef) -> Made:
    """Ask a stand-in the golden questions again."""
    return same("golden answers", ref, golden_answers(shop.artifacts, recipe.model(event), event))


def block_table(shop: Workshop, tiles: ArtifactRef, index: Index) -> Made:
    """List the blocks of the build again: of every cell of its tile table the last that was made before its index."""
    cells: dict[tuple[str, int, int, int], CellEmbedded] = {}
    space = str(index.components["space"])
    wanted = _cell_keys(shop.artifacts, tiles, space)
    for fact in shop.facts:
        match fact.event:
            case CellEmbedded(space=of, key=key) as event if of == space and key in wanted:
                cells[key, event.zoom, event.cell_x, event.cell_y] = event
            case IndexBuilt(blocks=table) | IndexExtended(blocks=table) if table == index.blocks:
                break
            case _:
                pass
    if len(cells) != len(wanted):
        raise UnavailableError(
            f"block table: expected a block of {len(wanted)} cells in the journal, found {len(cells)}"
        )
    return same("block table", index.blocks, encode_blocks(map(block_row, cells.values())))


def cell_blocks(
    shop: Workshop, recipe: Recipe, events: Sequence[CellEmbedded]
) -> Iterator[tuple[CellEmbedded, Made | UnavailableError]]:
    """Embed cells again: once with rows that other blocks hold, and where that gives other bytes, wholly anew.

    Args:
        shop: What it needs.
        recipe: Where the tiles are.
        events: How the cells were made, all in one vector space and by one engine.
    """
    steps: dict[CellKey, tuple[CellEmbedded, CellStep]] = {}
    for event in events:
        key = CellKey(event.zoom, event.cell_x, event.cell_y)
        try:
            cell = recipe.cell(key, space=event.space, step_key=event.key)
        except UnavailableError as error:
            yield event, error
        else:
            steps[key] = event, CellStep(cell=cell, components=event.components, key=event.key)
    damaged = {event.block.sha256 for event in events}
    space = events[0].space
    others = [found for found in shop.store.state.memo.blocks_in(space) if found.block.sha256 not in damaged]
    for known in (others, []):
        if not steps:
            return
        shop.begin("cells", tuple(map(str, steps)), space)
        for made in _embed(shop, recipe, events[0], [step for _, step in steps.values()], known):
            key = CellKey(made.event.zoom, made.event.cell_x, made.event.cell_y)
            event = steps[key][0]
            if made.event.block.sha256 == event.block.sha256:
                del steps[key]
                yield event, Made(data=made.data, event=made.event)
            elif not known:
                del steps[key]
                yield event, OtherBytesError(f"block {key}", event.block, made.data)


def _embed(
    shop: Workshop,
    recipe: Recipe,
    like: CellEmbedded,
    steps: Sequence[CellStep],
    others: Sequence[CellEmbedded],
) -> list[EmbeddedCell]:
    engine = engine_spec(shop.store.layout.artifact(like.engine), _engine_of(shop, like))
    # Tiles that get no descriptor were perhaps skipped then, too; the digest of the block tells.
    embed = partial(
        embed_windows,
        batcher=shop.batcher,
        engine=engine,
        preprocessing=_preprocessing(recipe),
        on_progress=shop.ports.progress.advance,
    )
    known = KnownRows(shop.artifacts, others)
    answered = embed_cells(
        steps, embed, space=like.space, engine=engine, known=known, progress=shop.ports.progress
    )
    with closing(answered):
        return [made for cells in answered for made in cells]


def _engine_of(shop: Workshop, cell: CellEmbedded) -> EngineCompiled:
    """The engine whose bytes embedded a cell, whole on disk."""
    for fact in reversed(shop.facts):
        match fact.event:
            case EngineCompiled(artifact=artifact) as event if artifact.sha256 == cell.engine:
                wrong = shop.artifacts.damage(artifact)
                if wrong is not None:
                    raise UnavailableError(
                        f"engine {event.model} {cell.engine[:12]}, which embeds them: {wrong}"
                    )
                return event
            case _:
                pass
    raise UnavailableError(
        f"expected engine {cell.engine[:12]}, which embeds them, in the journal, found none"
    )


def _preprocessing(recipe: Recipe) -> Preprocessing:
    model = next(model for model in recipe.build.inputs["models"] if model["role"] == "descriptor")
    return Preprocessing.from_document(model["preprocessing"])


def _cell_keys(artifacts: Artifacts, tiles: ArtifactRef, space: str) -> set[str]:
    """The step keys of the cells of a tile table."""
    table = decode_tiles(artifacts.read(tiles))
    cells: dict[CellKey, list[tuple[int, str]]] = {}
    for identifier, digest in zip(table.ids.tolist(), table.digests, strict=True):
        zoom, x, y = tile_of(identifier)[:3]
        cells.setdefault(CellKey(zoom, x >> CELL_SHIFT, y >> CELL_SHIFT), []).append(
            (identifier, bytes(digest).hex())
        )
    return {cell_key(cell_components(space=space, tiles=members)) for members in cells.values()}


def same(what: str, ref: ArtifactRef, data: bytes) -> Made:
    """Return the bytes that were made, if they are those that were committed.

    Raises:
        OtherBytesError: They are others.
    """
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise OtherBytesError(what, ref, data)
    return Made(data=data)
