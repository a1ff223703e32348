"""Tunes fusion rules and their thresholds on a dataset, from outputs that the network computes once per image.

`heads.py` caches the outputs, `rules.py` lists what can be tuned, `scoring.py` scores settings on an image, `search.py`
chooses settings, `statistics.py` computes confidence intervals, `study.py` runs all steps, and `report.py` writes the
results.
"""
