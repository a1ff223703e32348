"""Packages of the wheel; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["panoptic_fusion", "panoptic_fusion.*"]), "panoptic_fusion.configs"],
    package_dir={"panoptic_fusion.configs": "configs"},  # in the repository, configs/ is at the top level
)
