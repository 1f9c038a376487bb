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
TRAIN_COUNTS = (1400, 1000, 500, 400, 66)
VAL_COUNTS = (330, 270, 165, 145, 80)
SEED = 20  # of the training pictures; validation uses the next one
PARTS_PER_IMAGE = (4, 13)  # fewest and most in one picture
RARE_IMAGES_PER_BOX = 0.82  # a class with fewer boxes than pictures is spread over this many pictures a box

# The picture.
IMAGE_SIZE = (416, 320)  # width, height
JPEG_QUALITY = 90
SUPERSAMPLING = 2  # raster steps a pixel for edges and labels

# The camera: a smaller VIEW_MM makes bigger objects.
VIEW_MM = (124.0, 160.0)  # bench width across the middle of the picture
ELEVATION_DEG = (56.0, 80.0)  # 90 looks straight down
CAMERA_DISTANCE_MM = (330.0, 560.0)

# Crowding.
OVERLAP_SHARE = 0.14  # parts that may lie on others
MAX_HIDDEN = 0.30  # a part placed later hides at most this much of an earlier one
MIN_VISIBLE = 0.30  # less than this visible: no label
TRUNCATED_SHARE = 0.07  # parts that the picture's border may cut
MIN_INSIDE = 0.60  # and how much of them stays inside at least

# Bolt against coupling.
LOOKALIKE = 0.20  # couplings of the kind with one hexagonal end, bolt-like from the side
STANDING = {SCREW: 0.03, BOLT: 0.10, NUT: 0.80, WASHER: 0.93, COUPLING: 0.06}  # on an end face or flat

# Surroundings.
TOOLS = (0, 1)  # hand tools a picture, fewest and most
CABLE_SHARE = 0.15
CHIPS = (0, 6)
SCRATCHES = (0, 8)
STAIN_SHARE = 0.30
RUST_SHARE = 0.05

# The exposure.
EXPOSURE = (0.95, 1.25)
NOISE = (0.004, 0.014)  # standard deviation, 1.0 is white
BLUR_SHARE = 0.20
BLUR_SIGMA = (0.4, 0.95)  # pixels at IMAGE_SIZE
MOTION_SHARE = 0.04
MOTION_PIXELS = (2, 4)
