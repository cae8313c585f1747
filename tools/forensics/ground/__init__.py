"""What the records say of the ground: the area and its tiles, their ages, those that were kept, and the proof.

Pure. It imports what `tools.forensics` imports.
"""
