"""Encoded pictures: what kind a file is, whether it is damaged, and its pixels; tiles and photographs.

It imports `pipeline.errors`, `store.base` and what of `pipeline.tiles` describes a tile.
"""
