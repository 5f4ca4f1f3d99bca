"""What other tools speak: each format read into filings and written from reports; pure functions, bytes in, values out.

Readers guarantee that nothing is dropped in silence: every value of the source is either in the filing, exactly, or
listed as unmapped with its path. Writers never add to what is disclosed, and say what is withheld.
"""
