"""Read the shape of an area that is no box."""

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.errors import ArtifactError
from store.formats.area_shape import AreaShape


def stored_area_shape(artifacts: Artifacts, ref: ArtifactRef | None) -> AreaShape | None:
    """Return the shape of an area; None for a box, and if it cannot be read, which `c10 verify` reports."""
    if ref is None:
        return None
    try:
        return AreaShape.parse(artifacts.read(ref))
    except (ArtifactError, ValueError):
        return None
