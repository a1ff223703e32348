"""Errors that a user can mend: shown as one line by the command-line tools, without a traceback."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something the user gave is wrong; the message names it and says what to do."""


class ConfigError(UserError):
    """A config key has a value that cannot work."""


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs a command-line `main`; user errors and missing files end it with one line on stderr and exit code 2."""
    try:
        sys.exit(main() or 0)
    except (UserError, FileNotFoundError, PermissionError) as error:
        message = (
            str(error) if isinstance(error, UserError) or not error.filename else f"{error.strerror}: {error.filename}"
        )
        print(f"{sys.argv[0]}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
