"""What nodes and brokers say to each other: pure functions and frozen structs; time, randomness and keys are arguments.

`protocol` imports neither side. Only `protocol/keys.py` imports `cryptography`; only `protocol/bus.py` imports NATS.
"""
