"""For trying the program out; the daemon does not need it: a simulated VALT server, and the demonstration.

    simulator/   a VALT server with nine kinds of receiver and scripted faults
    demo/        ``valt-uploader demo``: server, watched folder and daemon at work

Touches: the loopback, temporary folders, processes of its own.
Imports: app, config, container, diagnostics, domain, runtime, store.
"""
