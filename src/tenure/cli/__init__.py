"""The command line: one file per command group, results on stdout, progress on stderr, exit codes in one table."""
