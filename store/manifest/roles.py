"""Names of the files of a descriptor index, in manifests and findings. Pure."""

WHOLE = "descriptor index"
"""The file that faiss wrote."""

DELTA = "index delta"
"""The rows that changed since."""

TABLE = "block table"
"""The table of the blocks that hold all rows."""

GOLDEN_ANSWERS = "golden answers"
"""What the stand-in of a descriptor network answered to the golden images; the others are named by their network."""

PACKS = "pack table"
"""The table of the packs of carried tiles."""

PROOF = "proof"
"""What the cache answered for photographs whose true place is known."""

AREA = "area"
"""The polygons and routes of an area that is no box."""


def golden_role(model: str, *, alone: bool) -> str:
    """Return the role of the golden answers of a network; `alone` if it is the only one that describes places."""
    return GOLDEN_ANSWERS if alone else f"{GOLDEN_ANSWERS} {model}"
