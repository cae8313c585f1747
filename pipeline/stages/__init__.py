"""The steps of a build: compile, embed, index, extend the index, check.

Each step is one function that takes values and ports and returns an event and bytes. Repair, rerun and
`c10 engines` call the same functions as a build and differ in what they do with the result. What a build does
with it is here, too: functions that take a `BuildContext` store the bytes and append the event. This folder
imports `pipeline.planning` and below, and never commits.
"""
