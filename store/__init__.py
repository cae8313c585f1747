"""The store: what a cache is, how it is written, read, checked and moved.

Low folders never import high ones. `errors`, `base`, `manifest`, `formats`, `trust`, `files`, `runtime` and
`reader` are the code of the aircraft: they import neither the journal nor LMDB and never write to a cache.
`domain` and `policy` are pure: what happened, and what is to be done. `disk` and `cache` write; `verify`,
`maintenance` and `transfer` build on them.
"""
