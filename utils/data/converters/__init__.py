"""Built-in data sets in YOLO format: fetch their archives, convert their annotations, without running scripts.

    python -m utils.data.converters VOC --root ../datasets/VOC

``stock`` holds the facts of each set, ``obtain`` the steps around a conversion, ``job`` what a converter writes with;
the other modules read one annotation format each (docs/datasets.md shows how to write one).
"""
