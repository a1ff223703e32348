"""The report: a page that shows where panoptic quality is lost, image by image.

`write.py` scores the images, writes their data and the page's index; `one_side.py` does so without predictions or
without ground truth. `image.py` handles one image: `errors.py` says what is wrong, per segment and per pixel,
`confusion.py` and `worst.py` count it, and `payload.py` and `pictures.py` make what the viewer shows. `index.py`
collects the numbers of all images, `comparison.py` compares predictions. `javascript.py` writes data for the page, and
`page.py` writes the page itself.
"""

from typing import Any

from ...moved import warn_of_move


def __getattr__(name: str) -> Any:
    if name not in ("results_table", "write_results"):  # what this module had in version 0.1.0
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import results

    warn_of_move(f"{__name__}.{name}", f"{results.__name__}.{name}")
    return getattr(results, name)
