"""The packages of the wheel; pyproject.toml has everything else."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["panoptic_fusion", "panoptic_fusion.*"]), "panoptic_fusion.configs"],
    package_dir={"panoptic_fusion.configs": "configs"},  # in the repository they are at the top
)
