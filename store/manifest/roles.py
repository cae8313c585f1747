"""Names of the files that make up a descriptor index, as a manifest and its findings call them. Pure."""

WHOLE = "descriptor index"
"""Role of the file that faiss wrote."""


DELTA = "index delta"
"""Role of what changed since."""


TABLE = "block table"
"""Role of the table of the blocks that hold all rows."""
