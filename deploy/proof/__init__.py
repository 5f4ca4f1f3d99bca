"""Evidence on the command line: export what a node holds about a report, and examine what is handed over."""
