"""The imagery: which tiles an area wants and a source has, their digests, capture dates and pixels.

It imports `pipeline.request`, `pipeline.errors` and `store`. It never writes a file beside an archive, and a
damaged tile is an error, never a guess.
"""
