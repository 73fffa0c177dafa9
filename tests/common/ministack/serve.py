"""Serves ministack until standard input closes: until the process that started it ends, however it ends.

Its own command takes a port that somebody has found free before, which another test may have taken since. Here the
socket is opened first; the first line of standard output is the port.
"""

import asyncio
import os
import socket
import sys
import threading


def leave_with_parent():
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    # Read where its modules are imported.
    os.environ["GATEWAY_PORT"] = str(port)
    # 8883 of the host is no business of ours.
    os.environ["IOT_MTLS_ENABLED"] = "0"
    os.environ.setdefault("LOG_LEVEL", "WARNING")
    # What it cannot do of state machines is played, where a test asks for it by the name of a case; and no test sits out
    # the pauses between attempts.
    os.environ.setdefault("SFN_MOCK_CONFIG", os.path.join(os.path.dirname(os.path.abspath(__file__)), "played.json"))
    os.environ.setdefault("SFN_WAIT_SCALE", "0.01")

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    threading.Thread(target=leave_with_parent, daemon=True).start()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = 1024
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    print(port, flush=True)
    # Whatever it has to say goes to the log; nobody reads the pipe any more.
    os.dup2(2, 1)
    asyncio.run(serve(app, config))


main()
