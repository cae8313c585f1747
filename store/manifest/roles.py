"""Names of the files of a descriptor index, in manifests and findings. Pure."""

WHOLE = "descriptor index"
"""The file that faiss wrote."""

DELTA = "index delta"
"""The rows that changed since."""

TABLE = "block table"
"""The table of the blocks that hold all rows."""

PACKS = "pack table"
"""The table of the packs of carried tiles."""

PROOF = "proof"
"""What the cache answered for photographs whose true place is known."""
