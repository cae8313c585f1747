"""The imagery: which tiles an area wants, which there are, their digests, dates and pixels.

It imports `pipeline.request` and below. It never writes beside an archive, and never guesses what a damaged
tile showed.
"""
