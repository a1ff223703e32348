"""Models of detectron2's model zoo that this project's configs support: names, files and classes.

This project has its own table because `detectron2.model_zoo` needs `pkg_resources`, which setuptools has dropped.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from panoptic_fusion.data.datasets.cityscapes import CITYSCAPES
from panoptic_fusion.data.datasets.coco import COCO
from panoptic_fusion.data.label_space import LabelSpace

URL = "https://dl.fbaipublicfiles.com/detectron2/"


@dataclass(frozen=True)
class ZooModel:
    """Model of detectron2's model zoo.

    Attributes:
        config: name of the matching config of this project, for `config_file`.
        url: URL of the weights. The file name ends with the first six digits of the file's MD5 checksum.
        label_space: function that returns the classes that the model was trained on.
    """

    config: str
    url: str
    label_space: Callable[[], LabelSpace]

    @property
    def md5_prefix(self) -> str:
        """First six hexadecimal digits of the file's MD5 checksum."""
        return self.url.rpartition("_")[2].removesuffix(".pkl")


_PANOPTIC, _INSTANCES = f"{URL}COCO-PanopticSegmentation/panoptic_fpn_", f"{URL}COCO-InstanceSegmentation/mask_rcnn_"
ZOO = {
    name: ZooModel(f"zoo/{name}.yaml", url, dataset.label_space)
    for name, url, dataset in (
        ("panoptic_fpn_r50_coco", f"{_PANOPTIC}R_50_3x/139514569/model_final_c10459.pkl", COCO),
        ("panoptic_fpn_r50_1x_coco", f"{_PANOPTIC}R_50_1x/139514544/model_final_dbfeb4.pkl", COCO),
        ("panoptic_fpn_r101_coco", f"{_PANOPTIC}R_101_3x/139514519/model_final_cafdb1.pkl", COCO),
        ("mask_rcnn_r50_coco", f"{_INSTANCES}R_50_FPN_3x/137849600/model_final_f10217.pkl", COCO),
        ("mask_rcnn_r101_coco", f"{_INSTANCES}R_101_FPN_3x/138205316/model_final_a3ec72.pkl", COCO),
        (
            "mask_rcnn_r50_cityscapes",
            f"{URL}Cityscapes/mask_rcnn_R_50_FPN/142423278/model_final_af9cf5.pkl",
            CITYSCAPES,
        ),
    )
}


def md5_of(path: str | os.PathLike) -> str:
    """Returns the MD5 checksum of a file as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def classes_of_zoo_file(path: str | os.PathLike) -> LabelSpace | None:
    """Returns the classes of a model zoo file, recognized by its checksum under any name; None for other files."""
    checksum = md5_of(path)
    for model in ZOO.values():
        if checksum.startswith(model.md5_prefix):
            return model.label_space()
    return None
