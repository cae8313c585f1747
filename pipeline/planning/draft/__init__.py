"""The request that `c10 init` drafts: what a source of tiles holds, and the text that asks for it.

It imports `pipeline.planning`, `pipeline.request` and `pipeline.tiles`, reads imagery and never writes.
"""
