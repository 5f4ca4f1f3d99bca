"""Starter policies to copy and change: a cautious default, one for each jurisdiction of the demonstration, and facts.

They are proposals of this project, of no authority, and no legal advice. No rule rests on a national fact: those stand
in `facts.toml`, with source, date and confidence, for the people who decide.
"""
