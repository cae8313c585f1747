"""Files that hold an area: GeoJSON, KML and KMZ, QGroundControl plans, Mission Planner waypoints.

It turns a file's bytes into features, and those into the shape of an area (`pipeline.request.area`). It imports the
rest of `pipeline.request`; Shapely, which judges polygons, is imported only where there is a file. It never reads
tiles, and ignores what is drawn but is no ground: points, colours, heights.
"""
