"""Encode and decode the artifacts: descriptor blocks, tables, index deltas, packs of tiles.

Pure, and part of the aircraft's code. It imports `store.base` and `store.errors`. Each module knows one
format with its limits. It never opens a file.
"""
