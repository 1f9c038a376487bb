"""Boxes, labels and crops on one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from utils.errors import WorkError
from utils.plotting.fonts import drawable_names, drawable_text, load_font, name_table
from utils.safe_write import write_new

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
DARK: Color = (16, 16, 16)
JPEG_SETTINGS = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class Colors:
    """Twenty class colours that stay apart for colour-blind eyes first and for all eyes after.

    The first eight are the hues of Okabe and Ito (2008) with the black one replaced; the others vary their lightness.
    """

    HEX = (
        "E8601C", "2A9DF4", "F2C12E", "009E73", "CC79A7", "0057B8", "8BD3E6", "A63D00",
        "7B4FB0", "B5D334", "F7A6B4", "00665E", "C2185B", "6E7F80", "9E8500", "B39DDB",
        "5D1A44", "46D9B4", "D9A066", "3C4A8C",
    )  # fmt: skip

    def __init__(self) -> None:
        self.palette = [self.hex2rgb(f"#{code}") for code in self.HEX]
        self.n = len(self.palette)

    def __call__(self, i: float, bgr: bool = False) -> Color:
        """Return the colour of class ``i`` as (red, green, blue), or (blue, green, red) with ``bgr``, each 0-255."""
        color = self.palette[int(i) % self.n]
        return (color[2], color[1], color[0]) if bgr else color

    @staticmethod
    def hex2rgb(h: str) -> Color:
        """Turn '#rrggbb' into (red, green, blue), each 0-255."""
        return int(h[1:3], 16), int(h[3:5], 16), int(h[5:7], 16)


colors = Colors()


def readable_on(color: Sequence[int]) -> Color:
    """Return near-black or white, whichever stands out more on a colour (green weighs most in either order)."""
    first, green, last = color[:3]
    return DARK if 0.2 * first + 0.6 * green + 0.2 * last > 140 else WHITE


@lru_cache(maxsize=2048)
def _text_mask(text: str, path: str, size: int) -> np.ndarray:
    """Return a text's coverage (h, w) uint8, h the font's full line height whatever the text."""
    from PIL import Image, ImageDraw

    font = load_font(path, size)
    ascent, descent = font.getmetrics()
    left, _, right, _ = font.getbbox(text, anchor="ls")
    canvas = Image.new("L", (max(int(np.ceil(right - left)), 1), ascent + descent))
    ImageDraw.Draw(canvas).text((-left, ascent), text, fill=255, font=font, anchor="ls")
    return np.asarray(canvas)


def _blend(im: np.ndarray, mask: np.ndarray, corner: tuple[int, int], color: Sequence[int]) -> None:
    """Paint ``color`` through a coverage mask (h, w) with its corner (x, y) on ``im`` (H, W, 3), in place."""
    x, y = corner
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + mask.shape[1], im.shape[1]), min(y + mask.shape[0], im.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    cover = mask[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) / 255
    region = im[y0:y1, x0:x1]
    region[:] = (region + cover * (np.asarray(color[:3], np.float32) - region) + 0.5).astype(np.uint8)


class Annotator:
    """Draw boxes and text on an image, in place where the image allows it.

    Args:
        im: (h, w, 3) uint8 array in any channel order, (h, w) grey array, or a PIL image. Colours follow its order.
        line_width: of boxes in pixels, by default from the image's size.
        font_size: text height in pixels, by default from the line width.
        font: font file or name; the default is DejaVu Sans.
        pil: work on a PIL image (``im`` and ``draw`` are then PIL's).
        example: class names (any text, list or dict). Names that no font here draws are replaced in labels by their
            class number when given as list or dict.
    """

    def __init__(  # noqa: PLR0913 (inherited signature)
        self,
        im: np.ndarray | Image.Image,
        line_width: float | None = None,
        font_size: float | None = None,
        font: str = "Arial.ttf",
        pil: bool = False,
        example: str | Sequence[str] | Mapping[int, str] = "abc",
    ):
        self.pil = pil or not isinstance(im, np.ndarray)
        self.im: Any = _as_pil(im) if self.pil else _as_array(im)
        width, height = self.im.size if self.pil else self.im.shape[1::-1]
        self.lw = max(round(line_width or (width + height) / 2 * 0.003), 1 if line_width else 2)
        self.font_size = max(round(font_size), 5) if font_size else max(self.lw * 5, 12)
        self.font_name = str(font)
        self.substitutes = _substitutes(example, self.font_name)
        if self.pil:
            from PIL import ImageDraw

            self.draw = ImageDraw.Draw(self.im)

    @property
    def font(self) -> FreeTypeFont:
        """The PIL font for plain text."""
        return load_font(drawable_text("abc", self.font_name)[1], self.font_size)

    def box_label(
        self,
        box: Sequence[float] | np.ndarray | torch.Tensor,
        label: str = "",
        color: Sequence[int] = (128, 128, 128),
        txt_color: Sequence[int] | None = None,
    ) -> None:
        """Draw one xyxy box in pixels, and its label above it, or inside where there is no room.

        Args:
            box: (4,) xyxy.
            label: text, none by default.
            color: of the box and the label's ground.
            txt_color: of the text, by default dark or white after ``color``.
        """
        x1, y1, x2, y2 = (round(float(v)) for v in box[:4])
        self.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=color, width=self.lw)
        if not label:
            return
        text, mask = self._mask(self._shown(label))
        pad = max(self.lw // 2, 2)
        width, height = mask.shape[1] + 2 * pad, mask.shape[0]
        limit_x, limit_y = self.im.size if self.pil else self.im.shape[1::-1]
        edge = (self.lw + 1) // 2
        left = max(min(x1 - edge, limit_x - width), 0)
        top = y1 - edge - height
        if top < 0:
            top = max(min(y1 - edge, limit_y - height), 0)
        self.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
        self._paint(mask, text, (left + pad, top), txt_color or readable_on(color))

    def rectangle(
        self,
        xy: Sequence[float],
        fill: Sequence[int] | None = None,
        outline: Sequence[int] | None = None,
        width: int = 1,
    ) -> None:
        """Draw a filled or outlined xyxy rectangle in pixels, its outline centred on the edges as OpenCV does."""
        x1, y1, x2, y2 = (round(float(v)) for v in xy)
        if self.pil:
            grow = (width - 1) // 2 if outline else 0
            shape = (x1 - grow, y1 - grow, x2 + grow, y2 + grow)
            self.draw.rectangle(shape, tuple(fill) if fill else None, tuple(outline) if outline else None, width)
            return
        if fill is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), [int(c) for c in fill], -1)
        if outline is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), [int(c) for c in outline], width)

    def text(
        self, xy: Sequence[float], text: str, txt_color: Sequence[int] = (255, 255, 255), anchor: str = "top"
    ) -> None:
        """Write a text with its upper left corner ('top') or lower left corner ('bottom') at ``xy`` in pixels."""
        text, mask = self._mask(text)
        x, y = round(float(xy[0])), round(float(xy[1]))
        self._paint(mask, text, (x, y - mask.shape[0] if anchor == "bottom" else y), txt_color)

    def text_size(self, text: str) -> tuple[int, int]:
        """Return (width, height) in pixels that a text takes."""
        mask = self._mask(text)[1]
        return mask.shape[1], mask.shape[0]

    def fromarray(self, im: np.ndarray) -> None:
        """Go on with another image (h, w, 3) uint8."""
        self.im = _as_pil(im) if self.pil else _as_array(im)
        if self.pil:
            from PIL import ImageDraw

            self.draw = ImageDraw.Draw(self.im)

    def result(self) -> np.ndarray:
        """Return the annotated image (h, w, 3) uint8."""
        return np.asarray(self.im)

    def _shown(self, label: str) -> str:
        """Return the label with an undrawable class name at its start replaced by the class number."""
        for name, substitute in self.substitutes.items():
            if label == name or label.startswith(f"{name} "):
                return substitute + label[len(name) :]
        return label

    def _mask(self, text: str) -> tuple[str, np.ndarray]:
        text, path = drawable_text(" ".join(text.split()), self.font_name)
        return text, _text_mask(text, path, self.font_size)

    def _paint(self, mask: np.ndarray, text: str, corner: tuple[int, int], color: Sequence[int]) -> None:
        if self.pil:
            from PIL import Image

            self.draw.bitmap(corner, Image.fromarray(mask), tuple(color))
        else:
            _blend(self.im, mask, corner, color)


def _as_pil(im: np.ndarray | Image.Image) -> Image.Image:
    from PIL import Image

    if isinstance(im, Image.Image):
        return im if im.mode == "RGB" else im.convert("RGB")
    return Image.fromarray(_as_array(im))


def _as_array(im: np.ndarray) -> np.ndarray:
    if im.ndim == 2 or im.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(im), cv2.COLOR_GRAY2BGR)
    if im.shape[2] == 4:
        im = im[..., :3]
    return im if im.flags.c_contiguous and im.flags.writeable else np.array(im, order="C")


def _substitutes(example: str | Sequence[str] | Mapping[int, str], font: str) -> dict[str, str]:
    """Return {undrawable class name: its number as text}, the longest first."""
    if isinstance(example, str):
        return {}
    names = {k: " ".join(v.split()) for k, v in name_table(example).items()}
    shown = drawable_names(names, font)
    lost = {names[i]: shown[i] for i in names if names[i] != shown[i]}
    return dict(sorted(lost.items(), key=lambda item: -len(item[0])))


def crop_box(xyxy: torch.Tensor, shape: Sequence[int], gain: float, pad: float, square: bool) -> list[int]:
    """Return the whole-pixel xyxy of a box enlarged by a factor and a margin, cut to the image.

    Args:
        xyxy: (4,) or (1, 4) in pixels.
        shape: (height, width, ...) of the image.
        gain: factor on width and height.
        pad: pixels added to width and height.
        square: make the shorter side as long as the longer one first.
    """
    x1, y1, x2, y2 = torch.as_tensor(xyxy).detach().float().cpu().view(-1, 4)[0]
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    if square:
        w = h = torch.maximum(w, h)
    w, h = w * gain + pad, h * gain + pad
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)).long()
    limits = torch.tensor([shape[1], shape[0], shape[1], shape[0]])
    return torch.minimum(corners.clamp(min=0), limits).tolist()


def claim_file(file: Path, data: bytes = b"") -> Path:
    """Write the first free one of ``x.jpg``, ``x-2.jpg``, ``x-3.jpg`` ... and return it; never one that exists.

    The search doubles its step, so that thousands of crops of one video stay fast.
    """

    def numbered(number: int) -> Path:
        return file if number < 2 else file.with_name(f"{file.stem}-{number}{file.suffix}")

    taken, free = 0, 1
    while numbered(free).exists():
        taken, free = free, free * 2
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if numbered(middle).exists() else (taken, middle)
    while not write_new(numbered(free), data):
        free += 1
    return numbered(free)


def save_one_box(  # noqa: PLR0913 (inherited signature)
    xyxy: torch.Tensor,
    im: np.ndarray,
    file: str | Path = Path("im.jpg"),
    gain: float = 1.02,
    pad: float = 10,
    square: bool = False,
    BGR: bool = False,  # noqa: N803
    save: bool = True,
) -> np.ndarray:
    """Cut a box out of an image and write it as JPEG; a file of that name that exists is left alone.

    Args:
        xyxy: (4,) box in pixels.
        im: (h, w, 3) uint8, RGB unless ``BGR``.
        file: where to write; the suffix becomes .jpg, repeats are numbered -2, -3 ...
        gain: factor on width and height.
        pad: pixels added to width and height.
        square: cut a square.
        BGR: whether ``im`` is BGR.
        save: whether to write the file.

    Returns:
        the crop (h, w, 3) uint8, BGR.

    Raises:
        WorkError: the file cannot be written.
    """
    x1, y1, x2, y2 = crop_box(xyxy, im.shape, gain, pad, square)
    crop = im[y1:y2, x1:x2, :: (1 if BGR else -1)]
    if save and crop.size:
        target = Path(file).with_suffix(".jpg")
        settings = [
            cv2.IMWRITE_JPEG_QUALITY,
            95,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ]
        data = cv2.imencode(".jpg", np.ascontiguousarray(crop), settings)[1]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            claim_file(target, data.tobytes())
        except OSError as error:
            raise WorkError(f"{target}: the crop cannot be written ({error.strerror})") from error
    return crop
