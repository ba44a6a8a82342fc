"""The process: runs the command line, and turns each error into a line on stderr and an exit code.

A user's mistake never ends in a trace-back. Exit codes: 0 done, 1 something is not ready, 2 usage or configuration,
73 the state folder cannot be written, 75 another process uses the state, 78 the state is damaged or of a newer version.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from uploader.cli import cli
from uploader.domain import errors
from uploader.runtime.hardening import harden
from uploader.runtime.log import configure, get_logger, install_hooks, redactor

log = get_logger(__name__)


def main() -> NoReturn:
    """Run the command line and exit. A bug is logged in one line, too, and gives exit code 1."""
    harden(os.environ)
    configure("warning", "auto", environ=os.environ)  # until a configuration says otherwise
    install_hooks()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code. A bug is written to the log."""
    try:
        return _run(arguments)
    except errors.UploaderError as error:
        return _end(error)
    except BaseExceptionGroup as group:  # from a task group: the wrapped error has the exit code
        first = errors.first_of(group)
        if isinstance(first, errors.UploaderError):
            return _end(first)
        if not isinstance(first, Exception):
            raise first from None
        log.critical("uncaught exception", exc_info=first)
    except Exception as error:  # the last place where a bug can be reported in one line
        log.critical("uncaught exception", exc_info=error)
    return 1


def _end(error: errors.UploaderError) -> int:
    _complain(error.faults if isinstance(error, errors.ConfigError) else [str(error)])
    return error.exit_code


def _run(arguments: list[str]) -> int:
    try:
        code = cli.main(arguments, prog_name="valt-uploader", standalone_mode=False)
    except SystemExit:  # click ends so when the reader of the output has closed the pipe
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    except click.UsageError as error:
        _complain([error.format_message()])
        where = "valt-uploader" if error.ctx is None else error.ctx.command_path
        sys.stderr.write(f"see: {where} --help\n")
        return 2
    except click.ClickException as error:
        _complain([error.format_message()])
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return code if isinstance(code, int) else 0


def _complain(lines: list[str]) -> None:
    for line in lines:
        sys.stderr.write(f"error: {redactor.clean(line)}\n")


if __name__ == "__main__":
    main()
