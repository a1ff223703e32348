"""What an import of each real sample in shared/data/formats must give, by its SOURCE.txt (counted by hand there).

Segments are those of the panoptic maps. Images without a shape are left out. Annotations without an image are imported
where the file has its size.
"""

# folder: (images, {class: segments}, crowds, number of problems reported); or the true reason of a refusal
SAMPLES: dict[str, tuple[int, dict[str, int], int, int] | str] = {
    "ade20k_2017/tiny": (2, {"sky": 2, "person": 2}, 0, 0),
    "ade20k_2020/tiny": (2, {"car": 2, "person": 2}, 0, 0),
    "binary_masks/pycococreator_shapes": (2, {"square": 3, "circle": 2}, 0, 0),
    "camvid/tiny": (
        4,
        {"Bicyclist": 1, "Road": 2, "Animal": 2, "Child": 1, "Sky": 1, "Bridge": 1, "Tree": 1, "Archway": 1},
        0,
        0,
    ),
    # 24, 27 and 31 alone are crowds, 12 is wall; 1 and 3 are ignored classes, so nothing is left of the image of val
    "cityscapes/instance_ids_tiny": (3, {"person": 1, "truck": 1, "train": 1, "wall": 1}, 3, 1),
    # of the 23 annotations 18 have an empty segmentation
    "coco_instances/cvat_coco_1_0": (2, {"bird": 2, "triangle": 1, "ellipse": 2}, 0, 0),
    "coco_instances/datumaro_tiny": (1, {"a": 1, "b": 1}, 1, 1),
    "coco_instances/val2017_four": (
        4,
        {
            "person": 24,
            "skis": 5,
            "zebra": 3,
            "bus": 2,
            "umbrella": 2,
            "handbag": 2,
            "backpack": 2,
            "dining table": 2,
            "clock": 1,
            "snowboard": 1,
            "cup": 1,
            "donut": 1,
        },
        1,
        0,
    ),
    # the PNG of train is 5x5, its image 10x5; isthing is 0, so the crowd is none
    "coco_panoptic/datumaro_tiny": (1, {"a": 1, "b": 1}, 0, 1),
    "coco_panoptic/val2017_two": (
        2,
        {
            "zebra": 14,
            "tree-merged": 1,
            "mountain-merged": 1,
            "grass-merged": 1,
            "cat": 1,
            "toilet": 1,
            "curtain": 1,
            "door-stuff": 1,
            "wall-tile": 1,
            "cabinet-merged": 1,
            "floor-other-merged": 1,
            "paper-merged": 1,
            "rug-merged": 1,
        },
        1,
        0,
    ),
    # the mask lies wholly under the polygon
    "cvat/docs_mask_skeleton": (1, {"car": 1, "plate": 1}, 0, 0),
    "cvat/images_1_1": (3, {"bird": 2, "triangle": 1, "rectangle": 1, "ellipse": 2, "strawberry": 17}, 0, 0),
    "cvat/task_z_order": (1, {"label1": 1}, 0, 1),
    "cvat/video_tracks": (1, {"II": 1}, 0, 0),
    "darwin_v7/polygons": (1, {"test_polygon_basic": 3}, 0, 0),
    "darwin_v7/semantic": (1, {"box": 1}, 0, 0),
    "isat/coco_semantic": (2, {"person": 3, "cup": 11, "knife": 2, "plate": 1, "cake": 1, "table": 2}, 1, 0),
    "isat/layers": (2, {"person": 7, "table": 1, "cup": 5, "cake": 1, "plate": 1, "fork": 1}, 0, 0),
    "kitti_seg/tiny": (2, {"truck": 2, "wall": 1, "train": 1}, 0, 0),
    "label_studio/brush_rle": (1, {"Cloud": 1, "Cloud Shadow": 1}, 0, 0),
    "label_studio/mixed_percent": (1, {"rectangle_label": 1, "polygon_label": 1}, 0, 0),
    "label_studio/polygons": (1, {"Airplane": 1}, 0, 0),
    "label_studio/two_annotators": (2, {"parasites": 1, "white": 3}, 0, 0),
    # 5 of the 6 images are not there, and the file has no sizes
    "labelbox/vector": (1, {"dog": 1}, 0, 5),
    "labelme/embedded_image": (1, {"rectangle": 1, "triangle": 1, "circle": 1, "ellipse": 1}, 0, 0),
    "labelme/parent_path_groups": (2, {"bird": 1, "chair": 1, "person": 1, "skis": 1}, 0, 0),
    "labelme/primitives": (1, {"rectangle": 2, "circle": 1, "polygon": 1, "octagon": 1}, 0, 0),
    "labelme/v3_16_embedded": (2, {"date": 6, "fig": 6, "hazelnut": 6}, 0, 0),
    "labelme/voc_instances": (3, {"person": 6, "bottle": 1, "chair": 1, "sofa": 1, "bus": 2, "car": 1}, 0, 0),
    "labelme_web_xml/cvat_labelme_3_0": (
        3,
        {"bird": 2, "triangle": 1, "rectangle": 1, "ellipse": 2, "strawberry": 17},
        0,
        0,
    ),
    "mapillary_vistas/v1_2_tiny": (
        3,
        {"animal--bird": 4, "construction--barrier--separator": 4, "object--vehicle--bicycle": 2},
        2,
        0,
    ),
    "mots_png/tiny": "the annotation is for 5x1, its image",
    # 43 of the 60 annotations are boxes, and four images have nothing else
    "roboflow_coco/sharks_tiny": (6, {"shark": 9, "fish": 3, "primary": 5}, 0, 0),
    # the mask of b.jpg is for another size
    "sa1b/tiny": (1, {"object": 1}, 0, 1),
    "scalabel/ins_seg": (1, {"car": 2}, 0, 1),
    "semantic_masks/datumaro_tiny": (2, {"Bicyclist": 1, "Road": 1, "Animal": 1, "Child": 1}, 0, 0),
    # of 27 shapes two are one group, and one object lies wholly below another one
    "superannotate/vector": (
        2,
        {"Personal vehicle": 25, "Human": 3, "Large vehicle": 5, "Personal vehicle1": 1},
        0,
        0,
    ),
    "supervisely/bitmap_instances": (2, {"cat": 1, "dog": 1}, 0, 0),
    "supervisely/vector_mixed": (3, {"cat": 1, "dog2": 3}, 0, 0),
    # 3 of the 4 images are not there, and the file has no sizes
    "via/via2_json_csv": (1, {"rectangle": 1, "triangle": 1, "ellipse": 1, "circle": 1}, 0, 3),
    "voc/cvat_voc_1_1": (1, {"ellipse": 2}, 0, 0),
    "yolo_seg/boxes_only": "boxes left out, since a box is not a mask",
    "yolo_seg/roboflow_yolov9": (6, {"shark": 9, "fish": 3, "primary": 5}, 0, 0),
}
