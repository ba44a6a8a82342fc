"""valt-uploader: every finished recording in a watched folder becomes one ready record on a VALT server.

A file's way, top to bottom; queues and frozen values pass between the stages, and no stage calls another:

1. ``stages.discover``  scans and watches the folders; events hurry, scans decide
2. ``stages.settle``    waits until a file stands still by our own clock
3. ``stages.enqueue``   known? changed? whose turn, in which order
4. ``stages.transfer``  creates the record, sends chunk after chunk, saves what was acknowledged
5. ``stages.verify``    asks until the server says ready
6. ``stages.finish``    writes the ledger line; keeps, moves or deletes the file
"""

__version__ = "0.1.0"
