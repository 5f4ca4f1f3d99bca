"""The node's HTTP interface: thin handlers over the core; everything that they refuse has a reason code."""
