"""Runs a command at a terminal of its own and does to it what a person does.

    at_a_terminal.py STEP... -- COMMAND...

Steps: `size:ROWSxCOLUMNS` (also while it runs), `see:TEXT` (waits for it), `press:TEXT`, `signal:NAME`, `end` (waits for it).
Writes one JSON object: what was seen after each step, the exit status, and whether the terminal echoes and reads lines again.
"""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

LIMIT = 60.0  # Nothing here takes that long unless it hangs.


def main():
    cut = sys.argv.index("--")
    steps, command = sys.argv[1:cut], sys.argv[cut + 1:]
    first = dict(step.split(":", 1) for step in steps[:1])
    child, terminal = pty.fork()
    if child == 0:
        # Until the terminal has its size.
        os.read(0, 1)
        os.execv(command[0], command)
    resize(terminal, first["size"])
    before = termios.tcgetattr(terminal)
    os.write(terminal, b"\n")
    seen, status, report = b"", None, []
    end = time.monotonic() + LIMIT
    for step in steps[1:]:
        kind, _, text = step.partition(":")
        mark = len(seen)
        if kind == "size":
            resize(terminal, text)
        elif kind == "press":
            os.write(terminal, text.encode().decode("unicode_escape").encode())
        elif kind == "signal":
            os.kill(child, getattr(signal, "SIG" + text))
        while kind in ("see", "end") and status is None:
            if kind == "see" and text.encode().decode("unicode_escape").encode() in seen[report_mark(report):]:
                break
            if time.monotonic() > end:
                sys.exit(f"waited in vain for {step}: {seen[-2000:]!r}")
            more, gone = read(terminal)
            seen += more
            if gone:
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report.append({"step": step, "seen": seen[mark:].decode(errors="replace"), "from": mark, "to": len(seen)})
    lines = termios.ICANON | termios.ECHO
    restored = termios.tcgetattr(terminal)[3] & lines == before[3] & lines == lines
    print(json.dumps({"steps": report, "all": seen.decode(errors="replace"), "status": status, "restored": restored}))


def report_mark(report):
    """Where what was seen since the last step that did something begins."""
    for done in reversed(report):
        if not done["step"].startswith("see:"):
            return done["from"]
    return 0


def read(terminal):
    ready, _, _ = select.select([terminal], [], [], 0.1)
    if not ready:
        return b"", False
    try:
        more = os.read(terminal, 65536)
    except OSError:
        return b"", True
    return more, not more


def resize(terminal, size):
    rows, columns = map(int, size.split("x"))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


main()
