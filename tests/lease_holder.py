"""Holds a write lease on each file that is named: whoever opens one waits until this process ends.

A regular file whose open blocks, as on a network mount that hangs, without a mount.
"""

import fcntl
import os
import signal
import sys
import time

# The kernel sends it to the holder when a file is opened.
signal.signal(signal.SIGIO, signal.SIG_IGN)

held = []
for path in sys.argv[1:]:
    file = os.open(path, os.O_RDWR)
    while True:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            break
        except BlockingIOError:  # it is being read
            time.sleep(0.01)
    held.append(file)
print("held", flush=True)
signal.pause()
