"""The report page of a build: one HTML file that needs no network.

It imports nothing of this repository. The page never loads anything from elsewhere.
"""
