"""The artifact that the inputs of a build name where its area is no box: its polygons and routes. Pure.

Its form is that of `store.formats.area_shape`; an aircraft asks it for the take-off.
"""

from store.base.canonical_json import Document
from store.base.values import ArtifactRef


def area_of(inputs: Document) -> ArtifactRef | None:
    """Return the artifact of the area; None for a box, or where the inputs name none."""
    match inputs.get("area"):
        case {"sha256": str(sha256), "size": int(size)}:
            return ArtifactRef(sha256=sha256, size=size)
        case _:
            return None
