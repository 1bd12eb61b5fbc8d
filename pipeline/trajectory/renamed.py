"""Extrapolation methods that once had another name: who gives the old one is told the new one."""

RENAMED = {"stale": "last"}
