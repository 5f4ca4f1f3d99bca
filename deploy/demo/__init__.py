"""A whole region in one process tree, with real incidents."""
