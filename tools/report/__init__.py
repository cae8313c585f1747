"""The report page of a build: one HTML file that needs no network.

It imports `tools.analysis` and `tools.forensics`. It never loads anything from elsewhere.
"""
