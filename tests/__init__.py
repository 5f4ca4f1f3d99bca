"""Tests of all packages; the folders mirror them."""
