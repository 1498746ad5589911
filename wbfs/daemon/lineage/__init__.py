"""Versions that runs read through a mount become inputs of those runs.

    recorder          the trio thread's part: a file is opened, which costs a look-up in a set and a
                      hand-over that never waits; it hands over from one to the next, and counts
    finder            the processes that read, and those that may have a run later
    readers           whose run is it? /proc of a reader and its parents, in one thread of its own
    transaction_log   what the SDK wrote down about a run: its entity and project
    sender            a row on disk first, then the server is told, again and again if it must be

The server is told once a run and version, with the mount's own key, and can't be told to forget it:
so nothing is recorded where it is not certain whose run it is. No operation waits for any of this,
and nothing that goes wrong in it is an error of a read.
"""
