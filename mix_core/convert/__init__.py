"""Weights in the layouts of other tools, to and from the published one. Importing this imports no paddle,
no torch.

Every reader gives, and every writer takes, the published weights as a list of `Outgoing`: name, dtype,
shape, and a function that makes the values when their turn has come.
"""
