"""The VALT server as the stages see it: its port, circuit breaker, capabilities, credentials, the client.

Touches: the network, the password file.
Imports: config, domain, files, runtime, store.
"""
