"""`c10 demo`: paint a region, cut it into tiles, build a cache, find photographs in it, fail a build, roll back.

It uses C10 as a user would: everything it shows is done by the real parts. Nothing but `tools.cli` knows it.
"""
