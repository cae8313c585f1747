"""What happened: events, their encoding, the state that they fold to, and the manifest that the state projects.

Pure: the same events give the same state and the same bytes, for ever. It imports `store.base`,
`store.manifest` and `store.errors`. It never reads the clock, a file or the journal.
"""
