"""For programs that talk to a Kentongan node: `kentongan.client`.

Needs aiohttp and msgspec, and no other part of this project.
"""
