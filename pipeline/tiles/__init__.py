"""Tile sources: which tiles an archive holds in an area, what identifies each, and how a worker reads one again."""
