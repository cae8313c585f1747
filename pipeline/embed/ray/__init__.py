"""Embed on a Ray cluster: actors hold the engine, the pool replaces those that die.

It imports `pipeline.embed` and below, and `ray` only when the request asks for it. Its vectors are those of
the local workers, byte for byte.
"""
