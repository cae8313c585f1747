"""Archives of encoded tiles: MBTiles, GeoPackage and PMTiles; how their tiles are found and hashed.

It imports what `pipeline.tiles.sources` has for all sources, and `pipeline.processes`. It opens archives for
reading alone, and never writes beside one. The registry names its modules; nothing else imports them.
"""
