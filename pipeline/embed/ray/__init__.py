"""Embed on a Ray cluster: actors hold the engine, a pool replaces those that die.

It imports `pipeline.embed` and below, and `ray` only when the request asks for it. Its vectors are the same
bytes as those of local workers.
"""
