"""What belongs to an engine, or to a failure, and is an artifact of its own: named in the fact itself. Pure.

`signature["attached"]` maps a name to a reference. Two names are known. "golden" are the answers of a stand-in to the
golden images (`store.runtime.golden_vectors`), which the engine that it stands in for is held against on board. "timing_cache" is
what a compiler learnt about its kernels: it saves the next compile time and says nothing about the result. Whatever
is attached stays as long as its engine, under any name. `inputs["attached"]` of a failed build names in the same form
the bytes that its step failed on; they stay as long as the other inputs of that build.
"""

from collections.abc import Mapping

from store.base.canonical_json import Document, is_digest
from store.base.values import ArtifactRef
from store.domain.events import BuildFailed, EngineCompiled
from store.errors import DamagedHistoryError, ErrorKind

ATTACHED = "attached"
GOLDEN = "golden"
TIMING_CACHE = "timing_cache"


def attached(event: EngineCompiled) -> dict[str, ArtifactRef]:
    """Return name to reference of what belongs to an engine.

    Raises:
        DamagedHistoryError: What stands there is no map of references.
    """
    found = event.signature.get(ATTACHED, {})
    if not isinstance(found, Mapping):
        raise _invalid(event, repr(found))
    refs: dict[str, ArtifactRef] = {}
    for name, value in found.items():
        ref = _reference(value)
        if ref is None:
            raise _invalid(event, f"{name}: {value!r}")
        refs[str(name)] = ref
    return refs


def attached_to_failure(event: BuildFailed) -> dict[str, ArtifactRef]:
    """Return name to reference of the bytes that a failed build left for whoever looks into it.

    What is no reference names nothing: a failure is told however it was recorded.
    """
    found = event.inputs.get(ATTACHED)
    refs = {str(name): _reference(ref) for name, ref in found.items()} if isinstance(found, Mapping) else {}
    return {name: ref for name, ref in refs.items() if ref is not None}


def with_attached(signature: Document, refs: Mapping[str, ArtifactRef]) -> Document:
    """Return a signature that names what belongs to the engine, and nothing where nothing does."""
    named = {name: {"sha256": ref.sha256, "size": ref.size} for name, ref in sorted(refs.items())}
    return {**without_attached(signature), **({ATTACHED: named} if named else {})}


def without_attached(signature: Document) -> Document:
    """Return the tensors of a signature alone."""
    return {name: value for name, value in signature.items() if name != ATTACHED}


def artifacts_of(event: EngineCompiled) -> tuple[ArtifactRef, ...]:
    """Return the engine itself and what belongs to it."""
    return (event.artifact, *attached(event).values())


def _reference(found: object) -> ArtifactRef | None:
    match found:
        case {"sha256": str(sha256), "size": int(size), **rest} if (
            not rest and is_digest(sha256) and type(size) is int and size >= 0
        ):
            return ArtifactRef(sha256=sha256, size=size)
        case _:
            return None


def _invalid(event: EngineCompiled, found: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"expected references to what belongs to engine {event.model}, found {found:.80}",
        kind=ErrorKind.INVALID_EVENT,
        hint="c10 verify --full",
    )
