"""Judge a recorded build as `c10 verify` would judge its cache. Pure."""

from datetime import date
from typing import Any

from store.base.values import ArtifactRef
from store.domain.proof import figures_of
from store.domain.state import Build, BuildStatus
from store.errors import DamagedHistoryError
from store.formats.area_shape import AreaShape
from store.formats.capture_dates import DAY_BYTES, CaptureDates, parse_capture_column
from store.trust.readiness import judge
from store.trust.readiness_facts import AreaCounts, facts_of_inputs
from tools.forensics.failure import ArtifactReader
from tools.output.sanitize import safe_data


def readiness_document(
    build: Build | None, artifacts: ArtifactReader, today: date | None
) -> dict[str, Any] | None:
    """Return the `readiness` of a committed build with its `warnings`; None of another, or if no day is given.

    Its files and signatures are not the question.
    """
    if today is None or build is None or build.status is not BuildStatus.COMMITTED or build.coverage is None:
        return None
    area = build.coverage
    try:
        facts = facts_of_inputs(
            build.inputs,
            counts=AreaCounts(
                wanted=area.wanted, present=area.present, featureless=area.featureless, skipped=area.skipped
            ),
            dates=None if build.tiles is None else _dates(artifacts, build.tiles.table, build.tiles.count),
            proof=None if build.proof is None else figures_of(build.proof),
            shape=_shape(artifacts, build.area),
        )
        found = judge(facts, today=today)
    except (KeyError, TypeError, ValueError, AttributeError, DamagedHistoryError):
        return None  # records from elsewhere may say anything
    document = {**found.to_document(), "warnings": [each.to_document() for each in found.warnings]}
    told: dict[str, Any] = safe_data(document)
    return told


def _shape(artifacts: ArtifactReader, ref: ArtifactRef | None) -> AreaShape | None:
    data = None if ref is None else artifacts.read(ref)
    return None if data is None else AreaShape.parse(data)


def _dates(artifacts: ArtifactReader, table: ArtifactRef, tiles: int) -> CaptureDates | None:
    data = artifacts.read(table)
    return None if data is None else parse_capture_column(data[len(data) - tiles * DAY_BYTES :])
