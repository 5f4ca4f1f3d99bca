"""Example sharing policies of the demonstration, as files."""
