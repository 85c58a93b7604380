"""Running a model: generation with a cache, streaming, grounding, and the engine that joins them.

Importing this package, and `grounding` and `streaming` in it, imports no paddle.
"""
