"""The diagnosis once more, image by image and box by box, as a check: slow, and nothing shared with the package."""

import math

CONF, CLS, BOX, IMAGE = "conf", "cls", "box", "image"


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def take_best(preds, objects, free_preds, free_objects, allowed, t_f):
    """Return {prediction: object}: predictions in order, each takes the free allowed object of highest IoU >= t_f."""
    matched = {}
    for p in free_preds:
        best, best_iou = None, -1
        for g in free_objects:
            if g in matched.values() or preds[p][IMAGE] != objects[g][IMAGE] or not allowed(preds[p], objects[g]):
                continue
            overlap = iou(preds[p][BOX], objects[g][BOX])
            if overlap >= t_f and overlap > best_iou:
                best, best_iou = g, overlap
        if best is not None:
            matched[p] = best
    return matched


def same_class(p, g):
    return p[CLS] == g[CLS]


def best_of(p, objects, allowed):
    """Return the highest IoU with an allowed object of the image that is above 0, and that object or -1."""
    best, at = 0.0, -1
    for g, obj in enumerate(objects):
        if obj[IMAGE] == p[IMAGE] and allowed(p, obj) and iou(p[BOX], obj[BOX]) > best:
            best, at = iou(p[BOX], obj[BOX]), g
    return best, at


def wrong_type(p, objects, t_f, t_b):
    same, g_same = best_of(p, objects, same_class)
    other, g_other = best_of(p, objects, lambda a, b: not same_class(a, b))
    both, g_any = best_of(p, objects, lambda a, b: True)
    if t_b <= same < t_f:
        return "Loc", g_same
    if other >= t_f:
        return "Cls", g_other
    if same >= t_f:
        return "Dupe", g_same
    if both <= t_b:
        return "Bkg", -1
    return "Both", g_any


def average_precision(rows, n):
    """AP of [(confidence, right)] in order for n objects: at each of 101 levels the best precision from there on."""
    if n == 0:
        return math.nan
    points, hits = [], 0
    for rank, (_, right) in enumerate(sorted(rows, key=lambda row: -row[0]), 1):
        hits += right
        points.append((hits, hits / rank))
    total = 0.0
    for level in range(101):
        total += max([precision for hits, precision in points if 100 * hits >= level * n], default=0.0)
    return 100 * total / 101


def mean(values):
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


class Tide:
    """Types, AP and gains of lists of objects and predictions, the latter by image and falling confidence."""

    def __init__(self, objects, preds, nc, t_f=0.5, t_b=0.1):
        self.objects, self.preds, self.nc = objects, preds, nc
        matched = take_best(preds, objects, range(len(preds)), range(len(objects)), same_class, t_f)
        self.types, self.target = [], []
        for p, pred in enumerate(preds):
            kind, g = ("TP", matched[p]) if p in matched else wrong_type(pred, objects, t_f, t_b)
            self.types.append(kind)
            self.target.append(g)
        self.found = set(matched.values())
        aimed = {g for kind, g in zip(self.types, self.target, strict=True) if kind in ("Cls", "Loc")}
        self.miss = [g not in self.found and g not in aimed for g in range(len(objects))]
        self.base = self.aps()
        self.map = mean(self.base)
        self.delta = {name: self.gain(name) for name in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")}

    def mended(self, p):
        """Whether a Cls or Loc error becomes right: its object is free and no better error aims at it."""
        g = self.target[p]
        if g in self.found:
            return False
        rivals = [
            q for q in range(len(self.preds)) if self.types[q] in ("Cls", "Loc") and self.target[q] == g
        ]  # fmt: skip
        return p == max(rivals, key=lambda q: (self.preds[q][CONF], -q))

    def aps(self, fix="", pair=None):
        rows = {c: [] for c in range(self.nc)}
        for p, pred in enumerate(self.preds):
            kind, cls, right = self.types[p], pred[CLS], self.types[p] == "TP"
            chosen = pair is None or (kind == "Cls" and (cls, self.objects[self.target[p]][CLS]) == pair)
            if fix == "FP" and not right:
                continue
            if kind == fix and chosen:
                if kind not in ("Cls", "Loc") or not self.mended(p):
                    continue
                cls, right = self.objects[self.target[p]][CLS], True
            rows[cls].append((pred[CONF], right))
        counts = [0] * self.nc
        for g, obj in enumerate(self.objects):
            left_out = (fix == "Miss" and self.miss[g]) or (fix == "FN" and g not in self.found)
            counts[obj[CLS]] += not left_out
        return [average_precision(rows[c], counts[c]) for c in range(self.nc)]

    def gain(self, fix, pair=None):
        after = mean(self.aps(fix, pair))
        if math.isnan(self.map):
            return math.nan
        return 100.0 - self.map if math.isnan(after) else max(0.0, after - self.map)  # nothing is left to find

    def pairs(self):
        found = {
            (self.preds[p][CLS], self.objects[self.target[p]][CLS])
            for p in range(len(self.preds))
            if self.types[p] == "Cls"
        }
        return {pair: self.gain("Cls", pair) for pair in found}


RENAMED = {"Loc": "location", "Cls": "extra class", "Dupe": "duplicate", "Bkg": "background", "Both": "other"}


def operate(objects, preds, t_f=0.5, t_b=0.1):
    """Return the type of every prediction, the state of every object, and the misclassified pairs."""
    right = take_best(preds, objects, range(len(preds)), range(len(objects)), same_class, t_f)
    rest = [p for p in range(len(preds)) if p not in right]
    free = [g for g in range(len(objects)) if g not in right.values()]
    wrong = take_best(preds, objects, rest, free, lambda a, b: True, t_f)
    types, states, pairs = [], [], {}
    for p, pred in enumerate(preds):
        if p in right:
            types.append("TP")
        elif p in wrong:
            types.append("misclassified")
            pair = (pred[CLS], objects[wrong[p]][CLS])
            pairs[pair] = pairs.get(pair, 0) + 1
        else:
            types.append(RENAMED[wrong_type(pred, objects, t_f, t_b)[0]])
    for g, obj in enumerate(objects):
        near = any(p[IMAGE] == obj[IMAGE] and p[CLS] == obj[CLS] and t_b <= iou(p[BOX], obj[BOX]) < t_f for p in preds)
        if g in right.values():
            states.append("TP")
        elif g in wrong.values():
            states.append("misclassified")
        else:
            states.append("badly located" if near else "missed")
    return types, states, pairs
