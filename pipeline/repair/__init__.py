"""Make again what is damaged or missing, from the inputs that the build recorded.

It imports `pipeline.stages` and below. What it makes is stored only if its digest is the one that the journal
names.
"""
