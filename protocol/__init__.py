"""What nodes and brokers say to each other: pure functions and frozen structs; time, randomness and keys are arguments.

Beside these stand the edges that both sides have: the bus (`bus.py`, `dialing.py`, `pulling.py`), the HTTP door
(`door.py`), the process (`process.py`), and files of keys and invitations. `protocol` imports neither side. Which file
may import which library is listed in `tests/test_architecture.py`.
"""
