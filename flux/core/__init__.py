"""The pure machine. It knows no clock, no dice, no I/O, no event loop and no logging.

Read `machine.py` first, then `records.py` (what can have happened) and `state.py` (what it adds up to).
"""
