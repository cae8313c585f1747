"""Text for the places that a cache of chunks of ground finds. Pure."""

from store.base.geometry.distances import distance_m
from store.reader.places.answer import Answer
from tools.output import render


def candidates(found: Answer, area: str) -> list[str]:
    """Return a table of the chunks of ground found, best first, and what the margin says.

    `area` is west, south, east and north of the cache, for where none was compared.
    """
    if not found.candidates:
        return [
            "no chunk of ground is there to be compared",
            f"the area of the cache is {area}; --near takes longitude, latitude, metres",
        ]
    best = found.candidates[0]
    rows = [
        (
            place + 1,
            f"{each.longitude:.6f}",
            f"{each.latitude:.6f}",
            f"{distance_m((best.longitude, best.latitude), (each.longitude, each.latitude)):.0f}",
            f"{each.score:.4f}",
        )
        for place, each in enumerate(found.candidates)
    ]
    header = ("#", "longitude", "latitude", "m from #1", "score")
    if found.margin is None:
        told = f"margin: none, because no chunk more than {best.side_m:.0f} m away from #1 was compared"
    else:
        told = (
            f"margin: {found.margin:.4f}: so much lower is the best score more than {best.side_m:.0f} m away; "
            "the larger it is, the surer is #1"
        )
    return [*render.table(header, rows, right="rrrrr"), told]
