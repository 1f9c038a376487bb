"""What decides how hard the drawn parts are to learn: the one place to turn, with the version that a turn must raise.

Lengths are millimetres on the bench, shares are 0 to 1. Any change here or in the drawing code changes pictures or
labels: raise VERSION with it, so that two people who compare numbers know whether they trained on the same pictures.
"""

from __future__ import annotations

VERSION = 1
CLASS_NAMES = ("screw", "bolt", "nut", "washer", "coupling")
SCREW, BOLT, NUT, WASHER, COUPLING = range(5)

# How many, of what. Counts of the default set; other sizes keep the shares.
TRAIN_IMAGES, VAL_IMAGES = 400, 120
TRAIN_COUNTS = (1400, 1000, 500, 400, 55)
VAL_COUNTS = (330, 270, 165, 145, 80)
SEED = 20  # of the training pictures; validation uses the next one
PARTS_PER_IMAGE = (4, 13)  # fewest and most in one picture
RARE_IMAGES_PER_BOX = 0.82  # a class with fewer boxes than pictures is spread over this many pictures a box

# The picture.
IMAGE_SIZE = (416, 320)  # width, height
JPEG_QUALITY = 90
SUPERSAMPLING = 2  # raster steps a pixel for edges and labels

# The camera: a smaller VIEW_MM makes bigger objects.
VIEW_MM = (155.0, 205.0)  # bench width across the middle of the picture
ELEVATION_DEG = (46.0, 78.0)  # 90 looks straight down
CAMERA_DISTANCE_MM = (330.0, 560.0)

# Crowding.
OVERLAP_SHARE = 0.28  # parts that may lie on others
MAX_HIDDEN = 0.45  # a part placed later hides at most this much of an earlier one
MIN_VISIBLE = 0.30  # less than this visible: no label
TRUNCATED_SHARE = 0.07  # parts that the picture's border may cut
MIN_INSIDE = 0.60  # and how much of them stays inside at least

# Bolt against coupling.
LOOKALIKE = 0.45  # couplings of the kind with one hexagonal end, bolt-like from the side
STANDING = {SCREW: 0.03, BOLT: 0.10, NUT: 0.80, WASHER: 0.93, COUPLING: 0.12}  # on an end face or flat

# Surroundings.
TOOLS = (0, 2)  # hand tools a picture, fewest and most
CABLE_SHARE = 0.25
CHIPS = (0, 14)
SCRATCHES = (0, 16)
STAIN_SHARE = 0.45
RUST_SHARE = 0.12

# The exposure.
EXPOSURE = (0.85, 1.35)
NOISE = (0.006, 0.024)  # standard deviation, 1.0 is white
BLUR_SHARE = 0.30
BLUR_SIGMA = (0.4, 0.95)  # pixels at IMAGE_SIZE
MOTION_SHARE = 0.08
MOTION_PIXELS = (2, 4)
