"""The step keys of a build: which component changed, and since which build. Pure.

A step key is the digest of a document of named components, and the journal holds both. A step ran again
because of the components in which its key differs from that of the build before.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from store.base import identity
from store.base.canonical_json import CanonicalError, Document, Value, encode
from store.base.valueclass import valueclass
from store.domain.state import Build, BuildStatus, State
from tools.output.sanitize import safe_data, safe_text

MAX_CHANGES = 1_000


@valueclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """One key of a build: kind and subject of the step, the digest and its components."""

    kind: str
    subject: str
    key: str
    components: Document


def step_keys_of(build: Build) -> list[StepKey]:
    """Return the keys of the steps that a build reached."""
    found = [
        StepKey(kind="engine", subject=name, key=event.key, components=event.components)
        for name, event in build.engines
    ]
    found += [
        StepKey(kind="stand-in", subject=name, key=event.key, components=event.components)
        for name, event in build.stand_ins
    ]
    found += _vector_spaces(build)
    if build.index is not None:
        found.append(
            StepKey(kind="index", subject="", key=build.index.key, components=build.index.components)
        )
    if build.identity and has_inputs(build):
        found.append(StepKey(kind="build", subject="", key=build.identity, components=build.inputs))
    return found


def has_inputs(build: Build) -> bool:
    """Return whether the records say what the inputs of a build were: not if it was refused at its start."""
    return build.status is not BuildStatus.REFUSED


def spaces_of(build: Build) -> tuple[str, ...]:
    """Return the vector spaces of a build, in the order of the networks; none if it did not get that far."""
    return tuple(space.key for space in _vector_spaces(build))


def explain_keys(state: State, number: int) -> list[dict[str, Any]]:
    """Return the keys of a build, each with the build that first had it and what changed then."""
    earlier = {
        each: {(key.kind, key.subject): key for key in step_keys_of(state.builds[each])}
        for each in sorted(state.builds)
        if each < number
    }
    return [_explain_key(number, key, earlier) for key in step_keys_of(state.builds[number])]


def component_changes(old: Value, new: Value, path: str = "") -> Iterator[dict[str, Any]]:
    """Yield the differences of two documents as {path, old, new}; members of lists by their names."""
    before, after = _by_name(old), _by_name(new)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*map(str, before), *map(str, after)}):
            here = f"{path}.{name}" if path else name
            yield from component_changes(before.get(name), after.get(name), here)
    elif encode(old) != encode(new):  # unlike ==, this tells true from 1, also inside of lists
        yield {"path": safe_text(path, 500), "old": safe_data(old), "new": safe_data(new)}


def _explain_key(
    number: int, key: StepKey, earlier: Mapping[int, Mapping[tuple[str, str], StepKey]]
) -> dict[str, Any]:
    """Explain a key by those of earlier builds, in their order; one that comes back was first in the oldest."""
    since, before = number, None
    for build, keys in earlier.items():
        found = keys.get((key.kind, key.subject))
        if found is None:
            continue
        if found.key == key.key:
            since = min(since, build)
        else:
            before = build, found
    changed = list(component_changes(before[1].components, key.components)) if before else []
    return {
        "kind": key.kind,
        "subject": safe_text(key.subject, 200),
        "key": safe_text(key.key, 64),
        "components": safe_data(key.components),
        "since": since,
        "before": {"build": before[0], "key": safe_text(before[1].key, 64)} if before else None,
        "changed": changed[:MAX_CHANGES],
    }


def _vector_spaces(build: Build) -> list[StepKey]:
    """Compute the vector space of each descriptor network as the build did, from its inputs and engines."""
    models = build.inputs.get("models")
    documents = [each for each in models if isinstance(each, Mapping)] if isinstance(models, Sequence) else []
    descriptors = [each for each in documents if each.get("role") == "descriptor"]
    alone = len(descriptors) == 1
    found = (_vector_space(build, each, alone=alone) for each in descriptors)
    return [space for space in found if space is not None]


def _vector_space(build: Build, descriptor: Mapping[str, Any], *, alone: bool) -> StepKey | None:
    name = str(descriptor.get("name"))
    engine = build.stand_in_of(name) or dict(build.engines).get(name)
    preprocessing = descriptor.get("preprocessing")
    if engine is None or not isinstance(preprocessing, Mapping):
        return None
    precision, batch = engine.components.get("precision"), engine.components.get("batch")
    recipes = build.inputs.get("recipes")
    recipe = recipes.get("cell") if isinstance(recipes, Mapping) else None
    try:
        key = identity.vector_space(
            engine=engine.key,
            preprocessing=preprocessing,
            precision=str(precision),
            batch=int(batch or 0),
            recipe=int(recipe or 0),
        )
    except (CanonicalError, TypeError, ValueError):
        return None
    components: Document = {
        "engine": engine.key,
        "preprocessing": preprocessing,
        "precision": precision,
        "batch": batch,
        "recipe": recipe,
    }
    return StepKey(kind="cells", subject="" if alone else name, key=key, components=components)


def _by_name(value: Value) -> Value:
    """Return a list of named documents as a map by name, and anything else as it is."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        names = [each.get("name") if isinstance(each, Mapping) else None for each in value]
        if all(isinstance(name, str) for name in names) and len({*names}) == len(names):
            return dict(zip(map(str, names), value, strict=True))
    return value
