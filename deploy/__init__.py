"""Puts the parts together on a machine: the `kentongan` command, the demonstration, example configurations."""
