"""The report: a page that shows where panoptic quality is lost, image by image.

`write.py` scores the images, writes their data and the page's index. `image.py` makes the data of one image with
`errors.py` (what is wrong, per segment and per pixel), `confusion.py` and `worst.py`; `pictures.py` makes its pictures.
`index.py` collects the numbers of all images, `comparison.py` compares predictions. `javascript.py` writes data for the
page, and `page.py` writes the page itself.
"""
