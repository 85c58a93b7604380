"""Plans on paper: what a layout of a run costs in memory and in time. Nothing here imports paddle."""
