"""Builders of small but complete inputs, shared by the tests of every room."""
