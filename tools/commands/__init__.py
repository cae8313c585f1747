"""One file per command of `c10`: its options, what it calls, and what it prints.

It may import everything but `tools.cli` and `tools.demo`. It decides nothing about a cache.
"""
