"""`make bench`: throughput, latency and memory of the real processes, beside this machine's own limits."""
