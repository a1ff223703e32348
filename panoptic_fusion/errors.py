"""Errors that a user can correct: shown as one line by the command line, without a traceback."""

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

# The wheel of requirements-detectron2.txt; tests/test_package_files.py compares the two.
INSTALL_DETECTRON2 = """\
detectron2 is not installed, and PyPI does not have it under that name. Build its official main branch from source, or
install the wheel that `make setup` uses, without a compiler:

    echo "sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561" > d2.txt
    pip install --no-deps --require-hashes --only-binary=:all: --python-version 3.10 \\
      --target "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" -r d2.txt
"""


class UserError(ValueError):
    """Something the user gave is wrong; the message names it and says what to do."""


class ConfigError(UserError):
    """A config key has a value that cannot work."""


# What the operating system says when a disk cannot take more: full, over quota, read-only, the file too long, failing.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


class DiskError(UserError):
    """A file could not be written for lack of space; what was finished before is kept."""

    @classmethod
    def of(cls, error: OSError, path: object = None) -> "DiskError":
        """The error for an OSError of DISK_ERRORS that concerns `path`, or the file that it names itself."""
        where = path or error.filename
        return cls(
            f"cannot write{f' {where}' if where else ''}: {error.strerror or one_line(error)}. What was finished "
            "before is kept; make room and start again (a training: with --resume)"
        )


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def run_cli(main: Callable[[], int | None], prog: str | None = None) -> NoReturn:
    """Runs a command-line `main`; user errors and missing files end it with one line on stderr and exit code 2.

    Args:
        main: returns the exit code, None for 0.
        prog: the name that starts the error; default: the script's.
    """
    try:
        sys.exit(main() or 0)
    except (UserError, FileNotFoundError, PermissionError) as error:
        message = (
            str(error) if isinstance(error, UserError) or not error.filename else f"{error.strerror}: {error.filename}"
        )
        print(f"{prog or sys.argv[0]}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"{prog or sys.argv[0]}: error: {DiskError.of(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
