"""Stubs made from protos/feinschliff/v1 at install; never edited, never committed."""
