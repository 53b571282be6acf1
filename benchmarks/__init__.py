"""flux beside the limit of the machine and beside its peers: `python -m benchmarks`."""
