"""Drives runs: asks the core what is outstanding, performs it, and commits what follows.

`engine.py` is what applications hold; `driver.py` moves one run; `attempt.py` is one try of one handler; `worker.py` claims
runs; `lease.py` keeps the right to move them; `view.py` is what people read; `registry.py` holds the workflows.
"""
