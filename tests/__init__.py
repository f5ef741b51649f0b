"""Mirrors the code, a folder for each room; `support` is what the tests share."""
