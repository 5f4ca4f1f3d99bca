"""Tests of what nodes and brokers say to each other."""
