"""The command bartizan: one file per subcommand."""
