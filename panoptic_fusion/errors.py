"""Errors that a user can fix; the command line shows them in one line, without a traceback."""

import errno
import re
import reprlib
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
    """Error in something that the user provided; the message names it and says what to do."""


class ConfigError(UserError):
    """Error in the value of a config key."""


# Errors of the operating system if a disk cannot store more: full, over quota, read-only, file too large, failing.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


# Errors of the operating system about a path that cannot exist as it is written.
PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


class DiskError(UserError):
    """Error of a file that could not be written for lack of space; files finished before are kept."""

    @classmethod
    def of(cls, error: OSError, path: object = None) -> "DiskError":
        """Returns the error for an OSError of DISK_ERRORS about `path`, or about the file that the OSError names."""
        where = path or error.filename
        return cls(
            f"cannot write{f' {where}' if where else ''}: {error.strerror or one_line(error)}. What was finished "
            "before is kept; free some space and start again (training runs: with --resume)"
        )


def one_line(error: BaseException) -> str:
    """Returns the text of an error without line breaks."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def counted(number: float, noun: str) -> str:
    """Returns a number with its noun, such as "1 image" and "2 images"."""
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"


# Characters that move the cursor, color a terminal, turn the direction of other text around, or cannot be encoded.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain_line(text: str) -> str:
    """Returns a text that may be anything, such as a class or file name, as one line that a terminal shows as it is.

    White space becomes single spaces; other control characters become escapes such as \\x1b.
    """
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split()))


def run_cli(main: Callable[[], int | None], prog: str | None = None) -> NoReturn:
    """Runs a command-line `main`; user errors and missing files end it with one line on stderr and exit code 2.

    Args:
        main: function that returns the exit code, None for 0.
        prog: program name at the start of the error; default: name of the script.
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
        if error.errno not in (*DISK_ERRORS, *PATH_ERRORS):
            raise
        is_disk = error.errno in DISK_ERRORS
        message = str(DiskError.of(error)) if is_disk else f"{error.strerror}: {reprlib.repr(error.filename)}"
        print(f"{prog or sys.argv[0]}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
