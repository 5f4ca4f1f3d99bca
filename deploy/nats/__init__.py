"""A NATS cluster of the region's own: its servers' configuration, and the accounts that the broker's keys sign.

`server.conf` is the servers'; `cli.py` makes what is particular to a region.
"""
