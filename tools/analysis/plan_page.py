"""The document of the page of `c10 plan --map`: that of a replay without records, as far as a plan knows it. Pure."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from pipeline.build.report import Planned
from pipeline.errors import PipelineError
from store.errors import StoreError
from store.formats.tables import decode_tiles
from tools.forensics.ground.area import CellPlace, Ground, Tiles, planned_area
from tools.output.plan import about, first_sentence, time_text

FORMAT: Final = 1


def plan_page(
    planned: Planned,
    document: Mapping[str, Any] | None,
    today: date,
    refusal: PipelineError | StoreError | None = None,
) -> dict[str, Any]:
    """Return what the page is drawn from.

    Args:
        planned: What would be built.
        document: The plan's JSON document; None if it was refused.
        today: The day of the plan, for the ages of the imagery.
        refusal: Why it was.
    """
    inputs = planned.inputs
    table = decode_tiles(inputs.selection.encoded())
    units = inputs.selection.units
    ground = Ground(area=inputs.area, tiles=Tiles(table.ids, table, units), report=planned.area.to_document())
    # A cell is reused if its blocks of all networks are.
    stale = {each.cell.key for each in planned.plan.stale}
    cells: dict[CellPlace, tuple[int, bool]] = {
        each.cell.key: (len(each.cell.units), each.cell.key not in stale) for each in planned.plan.cells
    }
    return {
        "format": FORMAT,
        "status": "planned" if document is not None else "refused",
        "summary": first_sentence(document) if document is not None else "a build would be refused",
        "build": None,
        "identity": inputs.identity,
        "flight_id": inputs.request.flight_id,
        "sector": str(inputs.request.sector),
        "plan": {
            "as_of": today.isoformat(),
            **({} if document is None else _with_times(document)),
            "error": None if refusal is None else {"message": refusal.message, "hint": refusal.hint},
        },
        "area": planned_area(ground, inputs.document, cells, today),
    }


def _with_times(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan with its times as texts that are no more exact than they are known."""
    times = document["time"]
    return {
        **document,
        "takes": time_text(times) if times else None,
        "time": [
            {**each, "about": None if each["seconds"] is None else about(each["seconds"])} for each in times
        ],
    }
