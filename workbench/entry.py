"""How a command line is entered: every error that a person can meet is one sentence, and a stop is a stop."""

from __future__ import annotations

import os
import signal
import sys

import typer

from workbench.errors import Failure, MarbleError

STOPPED = 130  # exit code of a command that Ctrl-C ended


def _stop_as_by_hand() -> None:
    """A closed terminal and `kill` stop a command as Ctrl-C does, so that its job says that it was stopped. What a
    shell told to be ignored (`nohup`) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def run_app(app: typer.Typer) -> None:
    """Run a command line; what goes wrong is one sentence on standard error."""
    _stop_as_by_hand()
    try:
        app(standalone_mode=True)
    except SystemExit as ended:  # typer makes one of a Ctrl-C
        if ended.code == STOPPED:
            sys.stderr.write(
                "marble: stopped; finished steps are kept, and the same command goes on behind them: what was "
                "begun of this step may begin anew\n"
            )
        raise
    except MarbleError as error:
        sys.stderr.write(f"marble: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except MemoryError:
        sys.stderr.write("marble: out of memory: close other programs or use a smaller preset\n")
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(
            f"marble: {error.strerror or error} ({error.filename}): check the path and its permissions\n"
        )
        sys.exit(Failure.exit_code)
    except Exception as error:
        if os.environ.get("MARBLE_DEBUG"):
            raise
        gist = (str(error).strip().splitlines() or [""])[0]
        sys.stderr.write(
            f"marble: unexpected trouble ({type(error).__name__}: {gist}); finished steps are kept; "
            "run the command again with MARBLE_DEBUG=1 to see where\n"
        )
        sys.exit(Failure.exit_code)
