"""Serving the app: find a free port, start Streamlit on it, grow what is missing beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from workbench import jobs
from workbench.errors import Failure, MarbleError
from workbench.grow import missing
from workbench.lab import Lab

HOST = "127.0.0.1"
APP = Path(__file__).parent.parent / "pages" / "app.py"


def free_port(wanted: int, tries: int = 20) -> int:
    """`wanted`, or the next port above it that nobody listens on."""
    for port in range(wanted, min(wanted + tries, 65_536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Failure(f"ports {wanted} to {wanted + tries - 1} are all in use: give another one with --port")


def grow_in_background(lab: Lab) -> str:
    """Start growing what the lab lacks, unless a job does already; a sentence that says which."""
    if any(job.state == "running" for job in jobs.jobs(lab)):
        return f"lab {lab.name!r} is growing already"
    try:
        _, todo = missing(lab)
    except MarbleError as error:  # the app opens all the same and shows what is whole
        return str(error)
    if not todo:
        return f"lab {lab.name!r} is complete"
    jobs.start(lab, ["grow", lab.name])
    return f"lab {lab.name!r} grows in the background: {len(todo)} steps to go, the Lab page shows them"


def serve(lab: Lab, port: int) -> int:
    """Run the app in the foreground until it is stopped; returns its exit code."""
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(APP),
        "--server.port",
        str(port),
        "--server.address",
        HOST,
    ]
    environment = {**os.environ, "MARBLE_LAB": lab.name, "MARBLE_HOME": str(lab.path.parent.resolve())}
    server = subprocess.Popen(command, env=environment, cwd=APP.parent.parent)
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0
