"""Ways to train N small, different networks, all doing the same work, for `benchmarks/throughput.py`."""
