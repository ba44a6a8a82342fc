"""valt-uploader: uploads each finished recording in a watched folder to a VALT server, as one record.

A file passes six stages, in this order. Queues and frozen values connect the stages; no stage calls another:

1. ``stages.discover``  scans and watches the folders; events save time, scans decide
2. ``stages.settle``    waits until a file has stopped changing, measured by the local monotonic clock
3. ``stages.enqueue``   compares a file with what is known of it, and decides in which order files are sent
4. ``stages.transfer``  creates the record, sends chunk after chunk, saves what was acknowledged
5. ``stages.verify``    asks the server until the video is ready
6. ``stages.finish``    writes the ledger line; keeps, moves or deletes the file
"""

__version__ = "0.1.0"
