"""One file per command of `c10`: options, the call, what is printed.

It imports everything below. A command decides nothing: it reads options, calls, and renders the answer.
"""
