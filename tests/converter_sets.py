"""Small data sets in the layout that each converter reads, and what their boxes become."""

import json

from PIL import Image

from utils.data.converters.obtain import prepare
from utils.data.converters.stock import own_yaml
from utils.data.converters.voc import SETS
from utils.dataset_yaml import read_names
from utils.yaml_files import read_yaml


def image(path, size=(100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def text_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc_object(name, box, difficult=0):
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_xml(*objects, size="<size><width>100</width><height>50</height></size>"):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def make_voc(root, sets=SETS):
    for year, kind in sets:
        top = root / f"VOCdevkit/VOC{year}"
        stem = f"{year}_{kind}"
        image(top / f"JPEGImages/{stem}.jpg")
        text_file(top / f"Annotations/{stem}.xml", voc_xml(voc_object("dog", (11, 6, 31, 26))))
        text_file(top / f"ImageSets/Main/{kind}.txt", f"{stem}\n")


def make_visdrone(root, parts=("train", "val", "test-dev")):
    for part in parts:
        folder = root / f"VisDrone2019-DET-{part}"
        image(folder / f"images/{part}_1.jpg")
        text_file(folder / f"annotations/{part}_1.txt", "10,5,20,20,1,4,0,0\n0,0,9,9,0,0,0,0,\n")


def make_sku(root, top=""):
    for split in ("train", "val", "test"):
        image(root / top / f"images/{split}_0.jpg")
        text_file(root / top / f"annotations/annotations_{split}.csv", f"{split}_0.jpg,10,5,30,25,object,100,50\n")


def make_coco(root, splits=("train", "val")):
    for split in splits:
        image(root / f"images/{split}2017/000000000009.jpg")
        facts = {
            "info": {"year": 2017},
            "images": [{"id": 9, "file_name": "000000000009.jpg", "width": 100, "height": 50}],
            "annotations": [{"id": 1, "image_id": 9, "category_id": 90, "bbox": [10, 5, 20, 20], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
        }
        text_file(root / f"annotations/instances_{split}2017.json", json.dumps(facts))


def make_objects365(root):
    for split in ("train", "val"):
        image(root / f"images/{split}/patch3/a.jpg")
        facts = {
            "images": [{"id": 5, "file_name": "images/v1/patch3/a.jpg", "width": 100, "height": 50}],
            "annotations": [{"image_id": 5, "category_id": 2, "bbox": [10, 5, 20, 20], "iscrowd": 1}],
            "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}],
        }
        text_file(root / f"zhiyuan_objv2_{split}.json", json.dumps(facts))


def make_argoverse(root):
    for split in ("train", "val"):
        image(root / f"Argoverse-1.1/tracking/{split}/log/front/f1.jpg", (192, 120))
        facts = {
            "categories": [{"id": i, "name": n} for i, n in read_names(own_yaml("Argoverse")).items()],
            "images": [{"id": 0, "sid": 0, "name": "f1.jpg", "width": 1920, "height": 1200}],
            "annotations": [{"image_id": 0, "category_id": 6, "bbox": [192, 120, 384, 480]}],
            "seq_dirs": [f"{split}/log/front"],
        }
        text_file(root / f"Argoverse-HD/annotations/{split}.json", json.dumps(facts))


def make_globalwheat(root):
    for domain in ("ethz_1", "usask_1", "arvalis_1", "arvalis_2", "arvalis_3", "rres_1", "inrae_1"):
        image(root / f"train/{domain}_a.jpg", (1024, 1024))
    rows = [f'{d}_a,1024,1024,"[256.0, 128.0, 512.0, 256.0]",{d}\n' for d in ("ethz_1", "usask_1")]
    rows += [f'{d}_a,1024,1024,"[0, 0, 1024, 1024]",{d}\n' for d in ("arvalis_1", "arvalis_2", "arvalis_3")]
    rows += [f'{d}_a,1024,1024,"[0, 0, 1024, 1024]",{d}\n' for d in ("rres_1", "inrae_1")]
    text_file(root / "train.csv", "image_id,width,height,bbox,source\n" + "".join(rows))


def make_xview(root, count=20):
    features = []
    for i in range(count):
        image(root / f"train_images/{i}.tif")
        features += [xview_feature(f"{i}.tif", 18, "10,5,30,25")]
    image(root / "val_images/900.tif")
    text_file(root / "xView_train.geojson", json.dumps({"type": "FeatureCollection", "features": features}))


def xview_feature(image, kind, box):
    return {"type": "Feature", "properties": {"image_id": image, "type_id": kind, "bounds_imcoords": box}}


MAKERS = {
    "VOC": make_voc, "VisDrone": make_visdrone, "SKU-110K": make_sku, "coco": make_coco, "Argoverse": make_argoverse,
    "Objects365": make_objects365, "GlobalWheat2020": make_globalwheat, "xView": make_xview,
}  # fmt: skip
BOX = "0.200000 0.300000 0.200000 0.400000"  # x 10-30 of 100, y 5-25 of 50
EXPECTED = {
    # 1-based: centre ((11 + 31) / 2 - 1) / 100 = 0.2, ((6 + 26) / 2 - 1) / 50 = 0.3, size 20 / 100, 20 / 50
    "VOC": [("labels/test2007/2007_test.txt", f"11 {BOX}\n"), ("labels/train2012/2012_train.txt", f"11 {BOX}\n")],
    "VisDrone": [("VisDrone2019-DET-val/labels/val_1.txt", f"3 {BOX}\n")],
    "SKU-110K": [("labels/test_0.txt", f"0 {BOX}\n"), ("val.txt", "./images/val_0.jpg\n")],
    "coco": [
        ("labels/val2017/000000000009.txt", f"79 {BOX}\n"), ("val2017.txt", "./images/val2017/000000000009.jpg\n"),
    ],
    # (192 + 384 / 2) / 1920, (120 + 480 / 2) / 1200, 384 / 1920, 480 / 1200
    "Argoverse": [("Argoverse-1.1/labels/val/log/front/f1.txt", f"6 {BOX}\n")],
    "Objects365": [("labels/train/patch3/a.txt", f"1 {BOX}\n")],
    "GlobalWheat2020": [("labels/ethz_1/ethz_1_a.txt", "0 0.500000 0.250000 0.500000 0.250000\n")],
    "xView": [("labels/train/7.txt", f"5 {BOX}\n")],
}  # fmt: skip


def convert(name, root, **options):
    return prepare(name, root, read_names(own_yaml(name)), **options)


def state(root):
    """Return path -> (content, identity) of every file of a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def contents(root):
    return {name: content for name, (content, *_) in state(root).items()}


def own_facts(name):
    return read_yaml(own_yaml(name))
