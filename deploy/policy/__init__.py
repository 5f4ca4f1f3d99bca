"""`kentongan policy …`: check, test, compare and explain sharing policies before they are in force.

Guarantees: every answer comes from `protocol.policy.evaluate`, the function by which the broker decides. Each tool is a
pure function that returns what it found as frozen structs; `cli` and `show` print it. Nothing is ever changed: neither
policies nor a region.
"""
