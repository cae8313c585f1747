"""Artifacts that belong to an engine or to a failure, and are named in its event. Pure.

`signature["attached"]` maps a name to a reference. Three names are known. "golden" are the answers of a stand-in to the
golden vectors (`store.runtime.golden_vectors`): the engine for flight must agree with them on board. "timing_cache" is
what a compiler learned about its kernels: it makes the next compile faster and does not affect the result. "network" is
the file of a network whose head was fitted on the area: later builds keep that head. Garbage collection keeps an
attachment as long as its engine, under any name. `inputs["attached"]` of a failed build names in the same form the bytes
that its step failed on; they are kept as long as the other inputs of that build.
"""

from collections.abc import Mapping

from store.base.canonical_json import Document, is_digest
from store.base.values import ArtifactRef
from store.domain.events import BuildFailed, EngineCompiled
from store.errors import DamagedHistoryError, ErrorKind

ATTACHED = "attached"
GOLDEN = "golden"
NETWORK = "network"
TIMING_CACHE = "timing_cache"


def attached(event: EngineCompiled) -> dict[str, ArtifactRef]:
    """Return the attachments of an engine by name.

    Raises:
        DamagedHistoryError: The event holds no map of references there.
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
    """Return the attachments of a failed build by name: the bytes that its step failed on.

    Malformed references are left out, so that every recorded failure can be shown.
    """
    found = event.inputs.get(ATTACHED)
    refs = {str(name): _reference(ref) for name, ref in found.items()} if isinstance(found, Mapping) else {}
    return {name: ref for name, ref in refs.items() if ref is not None}


def with_attached(signature: Document, refs: Mapping[str, ArtifactRef]) -> Document:
    """Return a signature with the given attachments in place of its own."""
    named = {name: {"sha256": ref.sha256, "size": ref.size} for name, ref in sorted(refs.items())}
    return {**without_attached(signature), **({ATTACHED: named} if named else {})}


def without_attached(signature: Document) -> Document:
    """Return a signature without attachments: its tensors alone."""
    return {name: value for name, value in signature.items() if name != ATTACHED}


def artifacts_of(event: EngineCompiled) -> tuple[ArtifactRef, ...]:
    """Return the references of an engine and its attachments."""
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
        f"expected references to the attachments of engine {event.model}, found {found:.80}",
        kind=ErrorKind.INVALID_EVENT,
        hint="c10 verify --full",
    )
