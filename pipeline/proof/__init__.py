"""Measure a cache by photographs whose true place is known. Pure: the stage that runs it reads the files.

It knows the table of true places and how answers are counted. It may import `store.base` and errors.
"""
