"""All that knows LMDB: create, open and check the environment that a journal lives in.

It knows pages, keys and values, not records and not events. It imports `journal.errors`, `journal.record` and
`journal.fsync`, and is the one place in the project that imports `lmdb`. It never deletes or rewrites a
record.
"""
