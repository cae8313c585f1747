"""Write, read, check, maintain and transfer caches.

Low folders never import high ones. `errors`, `base`, `manifest`, `formats`, `trust`, `files`, `runtime` and
`reader` are the aircraft's code: they import neither the journal nor LMDB, and never write to a cache.
`domain` and `policy` are pure: events and state, and decisions. `disk` and `cache` write; `verify`,
`maintenance` and `transfer` use all of them.
"""
