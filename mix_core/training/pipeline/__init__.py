"""Pipeline parallel: a model in stages that pass micro-batches on to each other."""
