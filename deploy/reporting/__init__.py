"""`kentongan report`: filing and following reports from a shell, through the client that programs use."""
