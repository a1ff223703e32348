"""Silences messages of other packages that appear at every start and that users of this project cannot act on."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

PACKAGES = "torch torchvision detectron2 fvcore iopath timm tensorboard pycocotools matplotlib".split()
# Loggers of torch that report deprecated internals and machines without CUDA.
LOGGERS = ("torch.fx._symbolic_trace", "torch.utils.cpp_extension")


def silence_other_packages() -> None:
    """Silences deprecation warnings of other packages; called by programs, not when the library is imported."""
    for package in PACKAGES:
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{package}(\.|$)")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def prints_to(logger: logging.Logger) -> Iterator[None]:
    """Redirects printed text, such as pycocotools' tables, to a logger (level INFO), as one message at the end."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        if text.getvalue().strip():
            logger.info("%s", text.getvalue().rstrip())
