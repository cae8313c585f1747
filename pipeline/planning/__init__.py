"""What a build would do, and why: resolved inputs, the plan, disk space, the report of the area.

It imports `pipeline.engines`, `pipeline.embed`, `pipeline.index` and below. It reads, and never writes.
"""
