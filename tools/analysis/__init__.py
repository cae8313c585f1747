"""Questions to the flight recorder: replay, diff, why, provenance, rerun.

Pure but for `rerun`, which runs steps again. It imports `tools.forensics` and answers with a document and
with text. It never writes into a cache.
"""
