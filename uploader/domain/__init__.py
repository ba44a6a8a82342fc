"""The rules: what an upload is, how it may change, and what follows from each error. Values and pure functions.

Touches: nothing; no clock, no disk, no network, no waiting.
Imports: runtime.
"""
