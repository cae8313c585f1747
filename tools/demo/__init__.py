"""`c10 demo`: paint a region, cut it into tiles, build, fly, break, repair.

It imports what a user would, and everything it shows is real work of the real parts.
"""
