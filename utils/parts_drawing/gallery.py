"""Pictures that show the built-in data set: the samples in data/images and the overview in the documentation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.parts_drawing.scene import Picture, draw_scene
from utils.parts_drawing.settings import BOLT, CLASS_NAMES, COUPLING, NUT, SCREW, WASHER
from utils.rng import make_rng

SAMPLE_SIZE = (640, 480)
MOST_BYTES = 120_000
SAMPLES = (
    (108, (BOLT, COUPLING, NUT, SCREW, WASHER, BOLT, SCREW, COUPLING, SCREW)),
    (105, (SCREW, BOLT, NUT, SCREW, WASHER, BOLT, SCREW, COUPLING)),
    (110, (BOLT, BOLT, COUPLING, NUT, NUT, WASHER, SCREW, SCREW, SCREW, WASHER)),
    (111, (COUPLING, BOLT, SCREW, NUT, BOLT, WASHER, SCREW)),
)
SHEET_SEED, SHEET_COLUMNS, SHEET_ROWS, SHEET_BYTES = 50, 3, 3, 200_000
COLOURS = {
    SCREW: (255, 160, 40),
    BOLT: (60, 60, 255),
    NUT: (70, 210, 70),
    WASHER: (230, 80, 230),
    COUPLING: (0, 235, 255),
}


def _jpeg_within(image: np.ndarray, limit: int) -> bytes:
    """Return a (H, W, 3) BGR image as JPEG of the best quality that stays within ``limit`` bytes."""
    for quality in range(92, 40, -4):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= limit:
            break
    return data


def write_pictures(folder: Path) -> None:
    """Write the sample pictures workbench1.jpg and on into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (seed, classes) in enumerate(SAMPLES, 1):
        picture = draw_scene(make_rng(seed), classes, size=SAMPLE_SIZE)
        (folder / f"workbench{number}.jpg").write_bytes(_jpeg_within(picture.image, MOST_BYTES))


def with_boxes(picture: Picture) -> np.ndarray:
    """Return the picture's image with its boxes and class names drawn."""
    image = picture.image.copy()
    for number, box in zip(picture.classes.tolist(), np.rint(picture.xyxy).astype(int).tolist(), strict=True):
        cv2.rectangle(image, box[:2], (box[2] - 1, box[3] - 1), COLOURS[number], 1, cv2.LINE_AA)
        place = (max(box[0], 2), max(box[1] - 3, 9))
        for colour, width in (((0, 0, 0), 3), (COLOURS[number], 1)):
            cv2.putText(image, CLASS_NAMES[number], place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, width, cv2.LINE_AA)
    return image


def write_sheet(file: Path) -> None:
    """Write a grid of pictures with their boxes to a JPEG file."""
    classes = [*range(5), SCREW, BOLT, COUPLING]
    tiles = [with_boxes(draw_scene(make_rng(SHEET_SEED, 0, k), classes)) for k in range(SHEET_COLUMNS * SHEET_ROWS)]
    rows = [np.hstack(tiles[k : k + SHEET_COLUMNS]) for k in range(0, len(tiles), SHEET_COLUMNS)]
    file.write_bytes(_jpeg_within(np.vstack(rows), SHEET_BYTES))
