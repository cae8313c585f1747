"""Verify a generation of a flight cache on board, then hand out its engines, index and tiles.

The order is signature, cache and floor, device, then content. The reader opens all files when it opens the
cache, relative to the folder, never through a symbolic link, and each must be a regular file of its exact
size. What happens to the folder later cannot change what the reader uses. It hashes content while it copies
it to sealed memory, and that memory is what the libraries get. It refuses a newest generation that is a NO-GO
with all reasons, and uses an older one only if the caller names it.

The reader needs neither journal nor LMDB and never writes to the cache. It raises `NoGoError` for whatever is
wrong with a cache, and `store.runtime.ExecutionError` where an engine's library is missing or fails.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from store.base.identity import tile_of
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.errors import (
    ArtifactError,
    ErrorKind,
    IncompatibleDeviceError,
    NoGoError,
    from_os_error,
    is_shortage,
)
from store.files.sealed_memory import SealedMemory, SealError, check_digest, open_expected, seal_file
from store.formats.index_delta import Delta
from store.formats.tables import BlockRow, TileTable, decode_tiles
from store.manifest.manifest import EngineEntry, Manifest
from store.manifest.roles import DELTA, TABLE, WHOLE
from store.reader import table_checks
from store.reader.engine_parity import parity_key, require_parity
from store.reader.manifest_files import no_cache, read_manifest, refuse_world_writable
from store.runtime import capabilities
from store.runtime.golden_vectors import Vectors, decode_answers
from store.runtime.load import DescriptorIndex, Engine, load_engine, load_index
from store.trust.go_no_go import ALLOW_UNSIGNED, Policy, TrustedKeys, check_flightworthy, foreign_engines
from store.trust.signatures import TrustedKey

__all__ = ["ALLOW_UNSIGNED", "FlightCache", "NoGoError", "Tile", "TrustedKey", "Verification"]


class Tile(NamedTuple):
    """One tile of the cache: XYZ scheme, `y` grows southwards; SHA-256 of its encoded bytes."""

    z: int
    x: int
    y: int
    sha256: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How much was hashed and is not damaged. Size in bytes."""

    files: int
    size: int


@dataclass(slots=True)
class FlightCache:
    """One verified generation of a flight cache. Use it in a `with` statement; not for two threads at once.

    Attributes:
        manifest: The manifest of the generation.
        elsewhere: Model to the reason why its engine, which is for another device, cannot run here. Always
            empty in a cache that was opened to fly.
    """

    manifest: Manifest
    _folder: int
    _files: dict[str, int] = field(default_factory=dict)
    _sealed: dict[str, SealedMemory] = field(default_factory=dict)
    _tiles: TileTable | None = None
    _proofs: Path | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        trusted_keys: TrustedKeys,
        floor: int | Mapping[str, int] | None = None,
        generation: int | None = None,
        proofs: str | os.PathLike[str] | None = None,
        flown: bool = True,
    ) -> "FlightCache":
        """Open the newest generation, or the one named, if it may be flown.

        Args:
            root: Folder of the cache.
            trusted_keys: Keys that may have signed it, `TrustedKey` or raw public ones of 32 bytes; or
                `ALLOW_UNSIGNED`.
            floor: Least generation to accept, for any cache or per known cache id: see
                `store.trust.rollback_protection`.
            generation: An older generation to use instead of the newest; never below the floor.
            proofs: A folder outside of the cache for parity records, which save later checks that an engine
                answers here as its stand-in did on the ground (`store.reader.engine_parity`). Only its owner
                may write to it; it is created if it does not exist.
            flown: False for a check on the ground: engines for other devices are then no reason to refuse the
                cache, and are not handed out.

        Raises:
            NoGoError: It may not be flown; with every reason.
            IncompatibleDeviceError: The cache is sound but for another device.
            CacheUnusableError: This process lacks memory or open files; that says nothing about the cache.
        """
        try:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if is_shortage(error):
                raise from_os_error(error, f"cache {os.fspath(root)}") from error
            raise no_cache(f"expected the folder of a cache, found: {error.strerror}") from error
        try:
            refuse_world_writable(folder)
            raw, signatures, number = read_manifest(folder, generation)
            policy = Policy(
                trusted_keys=trusted_keys,
                floor=floor,
                libraries=capabilities.libraries(),
                runs_here=capabilities.covered,
                device=capabilities.device,
                flown=flown,
            )
            cache = cls(check_flightworthy(raw, signatures, generation=number, policy=policy), folder)
        except BaseException:
            os.close(folder)
            raise
        cache._proofs = None if proofs is None else Path(proofs)
        cache.elsewhere = foreign_engines(cache.manifest, policy)
        try:
            cache._open_artifacts()
        except BaseException:
            cache.close()
            raise
        return cache

    def close(self) -> None:
        """Close all files. Engines and indexes that were handed out keep working."""
        for fd in (*self._files.values(), self._folder):
            if fd >= 0:
                os.close(fd)
        for sealed in self._sealed.values():
            sealed.close()
        self._files, self._sealed, self._folder = {}, {}, -1

    def __enter__(self) -> Self:
        """Use the cache in a `with` statement."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all files."""
        self.close()

    @property
    def preprocessing(self) -> Preprocessing:
        """The image contract of the descriptor network.

        Raises:
            NoGoError: It names a rule that this version lacks.
        """
        try:
            return Preprocessing.from_document(self.manifest.descriptor_engine.preprocessing)
        except ValueError as error:
            raise _damaged([f"preprocessing: {error}"]) from error

    def verify(self) -> Verification:
        """Hash all files that the manifest names, blocks included, and compare its tables with it.

        Raises:
            NoGoError: With every problem found.
        """
        problems, files, size = dict[str, str](), 0, 0
        for role, ref in self.manifest.artifacts():
            files, size = files + 1, size + ref.size
            with _collect_problem(problems, role):
                check_digest(self._files[ref.sha256], ref)
        if "tile table" not in problems:
            with _collect_problem(problems, "tile table"):
                table_checks.tiles_of(self.manifest, self._view("tile table", self.manifest.tiles))
        if DELTA not in problems:
            with _collect_problem(problems, DELTA):
                self._delta()
        rows: tuple[BlockRow, ...] = ()
        if TABLE not in problems:
            with _collect_problem(problems, TABLE):
                rows = table_checks.blocks_of(self.manifest, self._view(TABLE, self.manifest.index.blocks))
        for row in rows:
            files, size = files + 1, size + row.ref.size
            with _collect_problem(problems, f"block {row.zoom}/{row.cell_x}/{row.cell_y}"):
                self._hash_block(row.ref)
        if problems:
            raise _damaged([*problems.values()])
        return Verification(files=files, size=size)

    def engine_bytes(self, name: str) -> bytes:
        """Return the verified bytes of an engine.

        Raises:
            KeyError: No model has this name.
            NoGoError: The file is damaged.
        """
        return bytes(self._view(f"engine {name}", self._entry(name).artifact))

    def engine(self, name: str, *, threads: int = 1) -> Engine:
        """Return an engine, loaded and ready to run.

        If a stand-in of the descriptor engine embedded the tiles, the engine's answers are first compared
        with those of the stand-in, once per device: see `store.reader.engine_parity`.

        Raises:
            KeyError: No model has this name.
            NoGoError: The file is damaged; or the engine answers otherwise than its stand-in.
            IncompatibleDeviceError: It is for another device, in a cache opened with `flown=False`.
            store.runtime.ExecutionError: Its library is missing, of another version, or refuses it.
        """
        entry = self._entry(name)
        if name in self.elsewhere:
            raise IncompatibleDeviceError([self.elsewhere[name]], hint="load it on its own device")
        names = [entry.signature.get(end) for end in ("input", "output")]
        if not all(isinstance(end, str) for end in names):
            raise _damaged([f"engine {name}: expected the names of its input and output, found {names}"])
        engine = load_engine(
            self._view(f"engine {name}", entry.artifact),
            backend=entry.backend,
            version=entry.version,
            input=str(names[0]),
            output=str(names[1]),
            batch=entry.batch,
            threads=threads,
            target=entry.target,
            precision=entry.precision,
        )
        if entry is self.manifest.descriptor_engine:
            self._require_parity(entry, engine)
        return engine

    def descriptor_index(self) -> DescriptorIndex:
        """Return the index, loaded from sealed memory and checked against the manifest.

        Raises:
            NoGoError: The file is damaged.
            store.runtime.ExecutionError: faiss is missing, or the index is not what the manifest says.
        """
        index = self.manifest.index
        sealed = self._seal_file(WHOLE, index.artifact)
        return load_index(
            sealed.path,
            kind=index.kind,
            dimensions=index.dimensions,
            ntotal=index.whole_rows,
            metric=index.metric,
            delta=self._delta(),
        )

    def calibration(self) -> dict[str, Any]:
        """Return the camera calibration, as given in the request.

        Raises:
            NoGoError: The file is damaged, or no JSON object.
        """
        data = self._view("calibration", self.manifest.calibration)
        try:
            calibration = json.loads(bytes(data))
        except (ValueError, RecursionError) as error:
            raise _damaged([f"calibration: expected JSON, found: {error}"]) from error
        if not isinstance(calibration, dict):
            raise _damaged([f"calibration: expected a JSON object, found {type(calibration).__name__}"])
        return calibration

    def tile(self, descriptor_id: int) -> Tile:
        """Return the tile behind a descriptor id.

        Raises:
            KeyError: The cache holds no such tile.
            NoGoError: The tile table is damaged.
        """
        if self._tiles is None:
            try:
                self._tiles = decode_tiles(self._view("tile table", self.manifest.tiles))
            except ArtifactError as error:
                raise _damaged([f"tile {error.message}"]) from error
        zoom, x, y, _ = tile_of(descriptor_id)
        found = self._tiles.digest(descriptor_id) if descriptor_id >= 0 else None
        if found is None:
            raise KeyError(f"no tile {zoom}/{x}/{y} in this cache")
        return Tile(zoom, x, y, found)

    def _entry(self, name: str) -> EngineEntry:
        for entry in self.manifest.engines:
            if entry.model == name:
                return entry
        raise KeyError(
            f"no engine {name!r} in this cache, only {[entry.model for entry in self.manifest.engines]}"
        )

    def _require_parity(self, entry: EngineEntry, engine: Engine) -> None:
        stand_in = self.manifest.stand_in
        if stand_in is None:
            return
        preprocessing = self.preprocessing
        key = parity_key(
            engine=entry.artifact.sha256,
            golden=stand_in.golden.sha256,
            backend=entry.backend,
            version=entry.version,
            preprocessing=preprocessing,
        )

        def answers() -> Vectors:
            try:
                return decode_answers(self._view("golden answers", stand_in.golden))
            except ArtifactError as error:
                raise _damaged([error.message]) from error

        require_parity(
            key,
            engine.run,
            answers=answers,
            preprocessing=preprocessing,
            least_cosine=stand_in.least_cosine,
            folder=self._proofs,
        )

    def _open_artifacts(self) -> None:
        problems = list[str]()
        for role, ref in self.manifest.artifacts():
            try:
                if ref.sha256 not in self._files:
                    path = _artifact_path(ref)
                    self._files[ref.sha256] = open_expected(path, folder=self._folder, size=ref.size)
            except SealError as error:
                problems.append(f"{role}: {error}")
        if problems:
            raise _damaged(problems)

    def _seal_file(self, role: str, ref: ArtifactRef) -> SealedMemory:
        if ref.sha256 not in self._sealed:
            try:
                self._sealed[ref.sha256] = seal_file(self._files[ref.sha256], ref)
            except SealError as error:
                raise _damaged([f"{role}: {error}"]) from error
        return self._sealed[ref.sha256]

    def _view(self, role: str, ref: ArtifactRef) -> memoryview:
        return self._seal_file(role, ref).view()

    def _delta(self) -> Delta | None:
        entry = self.manifest.index.delta
        if entry is None:
            return None
        try:
            return table_checks.delta_of(self.manifest, self._view(DELTA, entry.artifact))
        except ArtifactError as error:
            raise _damaged([f"{DELTA}: {error.message}"]) from error

    def _hash_block(self, ref: ArtifactRef) -> None:
        fd = open_expected(_artifact_path(ref), folder=self._folder, size=ref.size)
        try:
            check_digest(fd, ref)
        finally:
            os.close(fd)


@contextmanager
def _collect_problem(problems: dict[str, str], role: str) -> Iterator[None]:
    """Keep what is wrong with a file, and go on."""
    try:
        yield
    except SealError as error:
        problems[role] = f"{role}: {error}"
    except NoGoError as error:
        problems[role] = error.reasons[0]
    except ArtifactError as error:
        problems[role] = f"{role}: {error.message}"


def _artifact_path(ref: ArtifactRef) -> str:
    return f"artifacts/{ref.sha256[:2]}/{ref.sha256}"


def _damaged(problems: Sequence[str]) -> NoGoError:
    return NoGoError(
        problems, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 verify --full on the ground, then c10 repair"
    )
