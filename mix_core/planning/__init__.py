"""Plans on paper: what a layout of a run over devices costs in memory and time. Nothing here imports paddle."""
