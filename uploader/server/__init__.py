"""The connection to the VALT server: circuit breaker, capabilities, credentials, and the client in ``valt``.

Touches: the network, the password file.
Imports: config, domain, files, runtime, store.
"""
