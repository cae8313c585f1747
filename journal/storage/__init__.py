"""Create, open and check the LMDB environment of a journal. No other part of the project imports `lmdb`.

It knows pages, keys and values, not records or events. It imports `journal.errors`, `journal.record`,
`journal.fsync` and `journal.regular_file`. It never deletes or rewrites a record.
"""
