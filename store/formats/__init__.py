"""The bytes of the artifacts: descriptor blocks, tables, index deltas, packs of tiles.

Pure, and part of the aircraft's code. It imports `store.base`. Each module encodes and decodes one format,
with its limits. It never opens a file.
"""
