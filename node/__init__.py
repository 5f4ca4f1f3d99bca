"""Runs at a national CERT: takes reports in, signs, sends, receives, and answers for what became of each."""
