"""Rebuild what is damaged or missing, from the inputs that the build recorded.

This folder imports `pipeline.stages` and below. It stores a rebuilt artifact only if its digest is the one
that the journal names.
"""
