"""The `mix-core` command: one thin file per sub-command."""
