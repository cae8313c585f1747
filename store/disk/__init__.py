"""The folder of a cache: its layout, its artifacts, files that are written once, the quarantine.

It imports `journal.fsync`, the file system check of `journal.storage`, and the folders below. Files appear
whole under their name or not at all. It never replaces and never renames what stands there.
"""
