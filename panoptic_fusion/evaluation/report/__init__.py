"""The report: a page that shows where panoptic quality is lost, image by image.

`write.py` scores the images, writes their data and the page's index; `one_side.py` does so without predictions or
without ground truth. `image.py` handles one image: `errors.py` says what is wrong, per segment and per pixel,
`confusion.py` and `worst.py` count it, and `payload.py` and `pictures.py` make what the viewer shows. `index.py`
collects the numbers of all images, `comparison.py` compares predictions. `javascript.py` writes data for the page, and
`page.py` writes the page itself.
"""
