"""A store of Paddle's that a connection leaves while its process ends: with exit code 3, after 3 seconds."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys

SECONDS = 3
LEAVE = "import socket, sys, time; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); \
print('in', flush=True); time.sleep(1.5)"


def main() -> None:
    libc = ctypes.CDLL(None)
    # registered before Paddle is loaded, so that it runs after Paddle's own exit handlers: sleep(exit code)
    libc.on_exit(libc.sleep, None)
    from paddle.base.core import TCPStore

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = TCPStore("127.0.0.1", port, True, 1, 30)
    # Paddle's process groups keep their store as long
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    leaving = subprocess.Popen([sys.executable, "-c", LEAVE, str(port)], stdout=subprocess.PIPE, text=True)
    assert leaving.stdout is not None and leaving.stdout.readline() == "in\n"
    sys.exit(SECONDS)


if __name__ == "__main__":
    main()
