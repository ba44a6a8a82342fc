"""What an upload is and what follows from what happens to it: values, tables and pure functions.

Touches: nothing: no clock, no disk, no network, no waiting.
Imports: config, runtime.
"""
