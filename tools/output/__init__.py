"""What a terminal shows: tables, progress, views of a build, and text made safe to print.

It imports `store` and `pipeline` values to render them. It never opens a cache.
"""
