"""Tunes fusion rules and their thresholds on a dataset, from outputs that are computed or read once per image.

`search.py` chooses settings, `statistics.py` computes confidence intervals, `study.py` runs all steps, and `report.py`
writes the results. For a network, `heads.py` caches the outputs, `rules.py` lists what can be tuned, and `scoring.py`
scores settings on an image. For files of any two models, `decoded_files.py` caches the outputs and scores settings,
`file_rules.py` lists what can be tuned, and `file_study.py` reads the files and runs all steps.
"""
