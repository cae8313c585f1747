"""Folded state kept in a file to save a replay. Disposable: who loses it replays the journal.

It imports `store.domain` and below. A snapshot is never believed where it differs from the chain of the
journal.
"""
