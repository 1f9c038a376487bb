"""A diagnosis from options to files: what diagnose.py runs, and val.py and train.py with --diagnose.

    diagnose_run(facts, folder, views=collector.views(), gt=gt, weights="best.pt", imgsz=640)

makes the same files in a folder of the caller's, from predictions that an evaluation has made anyway.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data.flat_rows import Rows
from utils.diagnosis import gallery, outputs, page, runs, summary, tables
from utils.diagnosis.advice import Facts, advise, write_advice
from utils.diagnosis.data import GroundTruth
from utils.diagnosis.facts import collect_facts
from utils.diagnosis.fail_on import check_tests, read_tests
from utils.diagnosis.inputs import Views, load_ground_truth
from utils.diagnosis.judge import Judged, judge
from utils.diagnosis.options import check_options, default_options, plain_options
from utils.diagnosis.rules import Rule, read_rules
from utils.diagnosis.tide import COCO_AREAS, TideSettings
from utils.diagnosis.train_facts import TrainFacts
from utils.diagnosis.verdict import verdict
from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER, colorstr

if TYPE_CHECKING:
    from utils.diagnosis.agreement import Agreement
    from utils.diagnosis.audit import Audit
    from utils.loggers.tensorboard_log import TensorBoardLog

Trainer = Callable[..., Any]
NOTES = {
    "views": "View A: all predictions from confidence 0.001, several labels a box, at most --max-det an image, as "
    "val.py makes them. View B: one label a box, suppressed at IoU 0.45 as by detect.py, above the operating point.",
    "derived": "View B was derived from the given predictions: of equal boxes with several labels the most confident "
    "one counts. It can differ a little from what the detector itself would show.",
    "absent": "Classes without objects in this split are left out of mAP, as COCO scoring does; their false "
    "predictions are counted and listed.",
    "train": "The judged images were trained on: what is measured here is optimistic.",
}


@dataclass
class Diagnosis:
    """One diagnosis on its way from options to files.

    Attributes:
        opt: checked options.
        facts: of the data set, from ``check_dataset``.
        base: hyperparameters that the advice starts from, and where they come from.
        rules: of the advice.
        gt: labelled objects of the judged split, None when no task needs them.
        views: predictions, None when no task needs them.
        summary: what summary.json will hold.
        crops: of the report.
    """

    opt: argparse.Namespace
    facts: dict[str, Any]
    base: runs.BaseHyp
    rules: list[Rule]
    gt: GroundTruth | None = None
    views: Views | None = None
    trainer: Trainer | None = None
    folder: Path = Path()
    summary: dict[str, Any] = field(default_factory=dict)
    crops: list[gallery.Crop] = field(default_factory=list)
    judged: Judged | None = None
    train: TrainFacts | None = None
    audit: Audit | None = None
    agreement: Agreement | None = None
    advice_facts: Facts = field(default_factory=Facts)

    # Before the folder is made: whatever can be refused -----------------------------------------------------------

    def load(self) -> None:
        """Read labels and predictions.

        Raises:
            InputError: something does not fit; whatever needs no predictions is refused before they are made.
        """
        opt, tasks = self.opt, set(self.opt.task)
        judged = bool({"errors", "labels"} & tasks and (opt.weights or opt.pred))
        if self.gt is None and (judged or "errors" in tasks or ("balance" in tasks and "labels" not in tasks)):
            self.gt = load_ground_truth(self.facts, opt.split, prefix=colorstr(f"{opt.split}: "))
        if self.gt is not None:
            self._confidence()
        if self.views is None and judged:
            source = opt.pred or (opt.weights[0] if len(opt.weights) == 1 else opt.weights)
            self.views = runs.predictions_of(source, opt, self.gt, "--pred" if opt.pred else "--weights")
        if self.gt is not None and {"errors", "balance"} & tasks:
            self.train = self._train_facts()

    def _train_facts(self) -> TrainFacts | None:
        """Return the labels of the training images, None where the data set has none at hand."""
        if self.opt.split == "train":
            return _labels_of(self._known_gt)
        try:
            return _labels_of(load_ground_truth(self.facts, "train", prefix=colorstr("train: ")))
        except MissingFileError as error:
            LOGGER.warning("WARNING training labels are not there, advice on frequencies is left out: %s", error)
            return None

    @property
    def _known_gt(self) -> GroundTruth:
        assert self.gt is not None
        return self.gt

    @property
    def _known_views(self) -> Views:
        assert self.views is not None
        return self.views

    def open(self, folder: Path | None) -> None:
        """Make the run folder and begin the summary."""
        from utils.paths import increment_path

        opt = self.opt
        try:
            if folder is None:
                self.folder = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)
            else:
                self.folder = folder
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkError(f"{folder or opt.project}: the folder cannot be made ({error.strerror})") from error
        self.summary = summary.new_summary(_now(), opt.task, self._data_part(), self._run_part())
        self.summary["settings"] = plain_options(opt)

    def _data_part(self) -> dict[str, Any]:
        gt, data = self.gt, self.opt.data
        return {
            "yaml": str(data) if isinstance(data, (str, Path)) else str(self.facts.get("path", "")),
            "split": self.opt.split, "images": None if gt is None else len(gt.images),
            "objects": None if gt is None else len(gt),
            "names": {str(c): name for c, name in self.facts["names"].items()},
        }  # fmt: skip

    def _run_part(self) -> dict[str, Any]:
        opt = self.opt
        weights = " ".join(map(str, opt.weights)) if opt.weights else None
        facts = runs.model_facts(opt.weights)
        return {
            "weights": weights, "predictions": self.views.a.source if self.views else opt.pred, "imgsz": opt.imgsz,
            "model": facts["model"], "parameters": facts["parameters"], "folder": str(self.folder),
            "advice_file": str(self.folder / "advice.yaml"), "thresholds_file": str(self.folder / "thresholds.yaml"),
            **runs.class_gains(self.base, int(self.facts["nc"]), facts["layers"]), "map50_train": None,
            "train_options": runs.train_options(opt.weights),
        }  # fmt: skip

    # Tasks --------------------------------------------------------------------------------------------------------

    def run_agreement(self) -> None:
        """Compare annotators; before errors, which name what annotators confuse as well."""
        from utils.diagnosis.agreement import measure_agreement, read_annotators

        annotators, images, names = read_annotators(self.facts, self.opt.split, self.opt.labels_b)
        self.agreement = measure_agreement(annotators, images, names, seed=self.opt.seed)
        self.summary["agreement"] = summary.agreement_summary(self.agreement)

    def run_errors(self) -> None:
        """Judge the predictions in both views."""
        opt, gt, views = self.opt, self._known_gt, self._known_views
        if not len(gt):
            LOGGER.warning(
                "WARNING no object is labelled in the %s images: mAP, misses and wrong classes are unknown", opt.split
            )
        settings = TideSettings(
            opt.iou_found, opt.iou_background, None, COCO_AREAS[opt.area] if opt.area else None,
            tuple(opt.classes) if opt.classes else None,
        )  # fmt: skip
        boxes = None if self.train is None else self.train.boxes
        self.judged = judge(gt, views, self._confidence(), boxes, settings)
        disputed = self.agreement.disagreements if self.agreement else None
        self.summary["errors"] = summary.errors_summary(self.judged, self.train, disputed)
        if self.agreement:
            self.summary["agreement"] = summary.agreement_summary(self.agreement, self.judged)
        if self.train is not None:
            self.summary["run"]["map50_train"] = runs.train_map50(opt, self.facts, gt)
        notes = [NOTES["views"], *([] if views.b_exact else [NOTES["derived"]]), NOTES["absent"]]
        self.summary["notes"] += notes + ([NOTES["train"]] if self._in_sample() else [])
        limits = gallery.Limits(total=opt.max_crops)
        self.crops += gallery.cut_crops(gallery.error_crops(gt, self.judged.operating, limits))

    def _confidence(self) -> float | np.ndarray | None:
        """Return the operating threshold as given, None for the best."""
        if self.opt.class_thres:
            from utils.class_thresholds import class_thresholds

            return class_thresholds(self.opt.class_thres, self._known_gt.names, 0.25).double().numpy()
        return self.opt.conf

    def _in_sample(self) -> bool:
        """Return whether the judged images are those of training."""
        return self.opt.split == "train" or self.facts.get("train") == self.facts.get(self.opt.split)

    def run_balance(self) -> None:
        """Count classes in training and in the judged split."""
        from utils.diagnosis.audit_balance import class_balance

        gt = self._known_gt
        labels = {"train": self.train.labels} if self.train else {}
        labels.setdefault(self.opt.split, _labels_of(gt).labels)
        self.summary["balance"], _ = class_balance(labels, gt.names)

    def run_labels(self) -> None:
        """Audit the labels, with the model's or the folds' predictions where there are any."""
        from utils.diagnosis.audit import add_model_findings, audit_labels, log_audit
        from utils.diagnosis.audit_fixes import write_fixed_copy, write_label_weights
        from utils.diagnosis.audit_objectlab import SETTINGS, objectlab

        opt, source = self.opt, self._source()
        self.audit = audit_labels(source, imgsz=opt.imgsz, look=opt.look)
        if opt.objectlab != "off" and (opt.folds or self.views):
            if opt.folds:
                truth = load_ground_truth(self.facts, "train")
                groups = self.audit.groups(info.path for info in truth.images)
                pred = runs.fold_predictions(opt, truth, self.folder / "folds", self.trainer, groups)
            else:
                truth, pred = self._known_gt, self._known_views.a
            in_sample = not opt.folds and self._in_sample()
            result = objectlab(truth, pred, SETTINGS[opt.objectlab], in_sample=in_sample)
            self.audit = add_model_findings(self.audit, result, truth, pred)
            if truth.split == "train":  # labels of other splits are unknown to a training
                write_label_weights(self.folder / "label_weights.csv", result, truth)
                self._file("label_weights.csv", "a weight for each training label, for label_weights of a hyp file")
        log_audit(self.audit)
        self.audit.write(self.folder)
        self._file("audit.json", "all findings of the label audit")
        self._file("audit.csv", "the same, a line for each")
        self.summary["audit"] = summary.audit_summary(self.audit)
        self.summary["balance"] = self.audit.balance
        if self.gt is None:  # so that an audit tells of labels that nothing else could be measured with
            self._count_from(self.audit)
        limits = gallery.Limits(total=opt.max_crops)
        self.crops += gallery.cut_crops(gallery.finding_crops(self.audit.findings, limits))
        if opt.fix:
            write_fixed_copy(self.audit, opt.fix)
            self.summary["notes"].append(f"Corrected copies of the label files are in {opt.fix}.")

    def _count_from(self, audit: Audit) -> None:
        """Enter the images and objects of the split as the audit counted them."""
        classes = audit.balance["splits"].get(self.opt.split, {"classes": []})["classes"]
        self.summary["data"]["images"] = audit.images.get(self.opt.split, {}).get("images")
        self.summary["data"]["objects"] = sum(row["instances"] for row in classes)

    def _source(self) -> Any:
        """Return the data set for the audit, its YAML where it is one, so that findings name the file."""
        return self.opt.data if isinstance(self.opt.data, (str, Path)) else self.facts

    def run_compare(self) -> None:
        """Compare other runs with this one."""
        from utils.diagnosis.compare import compare

        opt, judged = self.opt, self.judged
        assert judged is not None
        first = opt.pred or " ".join(map(str, opt.weights or ["this run"]))
        names = runs.run_names(first, opt.compare)
        others = [runs.judged_run(source, opt, judged, self._confidence()) for source in opt.compare]
        sides = [runs.compared_run(name, each) for name, each in zip(names, [judged, *others], strict=True)]
        comparison = compare(sides, opt.resamples, opt.seed)
        comparison.save(self.folder / "comparison.csv")
        self._file("comparison.csv", "differences between runs, with intervals")
        self.summary["comparison"] = summary.comparison_summary(comparison)
        for line in comparison.lines():
            LOGGER.info(line)

    def run_capacity(self) -> None:
        """Measure what model sizes cost; last of the tasks, since it weighs what the others found."""
        from utils.diagnosis.capacity import judge_capacity

        facts = collect_facts(self.summary).run
        found = judge_capacity(
            facts, int(self.facts["nc"]), self.opt.imgsz, self.opt.device, parameters=self.summary["run"]["parameters"]
        )
        self.summary["capacity"] = found.to_dict()

    # Results ------------------------------------------------------------------------------------------------------

    def advise(self) -> None:
        """Apply the rules and write advice.yaml."""
        self.advice_facts = collect_facts(self.summary)
        advice = advise(self.rules, self.advice_facts, self.base.settings)
        write_advice(self.folder / "advice.yaml", advice, base=self.base.source, run=str(self.folder))
        self._file("advice.yaml", "hyp file with the suggested settings, for train.py --hyp")
        self.summary["advice"] = advice.to_dict()
        self.summary["verdict"] = verdict(self.summary, self.advice_facts)

    def write(self, log: TensorBoardLog | None = None, step: int = 0) -> None:
        """Write everything that is not written yet: tables, summary.json, report.html, TensorBoard events."""
        if self.judged is not None:
            origin = f"{self.folder}, {self.summary['run']['predictions']}, data {self.summary['data']['yaml']}"
            files = outputs.write_errors(self.folder, self.judged, f"{origin} ({self.opt.split})", self.opt)
            if self.advice_facts.run.get("largest_error") == "Bkg":
                files |= outputs.write_hard_negatives(self.folder, self.judged)
            self.summary["files"] |= files
        for name, meaning in tables.write_numbers(self.folder, self.summary).items():
            self._file(name, meaning)
        if log is not None:
            from utils.diagnosis.tensorboard import log_diagnosis

            log_diagnosis(log, self.summary, self.crops, step)
        self._file("summary.json", "every number of this page")
        placed = gallery.place_crops(self.crops, self.folder)
        summary.write_summary(self.folder / "summary.json", self.summary)
        page.write_page(self.folder / "report.html", self.summary, placed)

    def _file(self, name: str, meaning: str) -> None:
        self.summary["files"][name] = meaning

    def run(self, folder: Path | None, log: TensorBoardLog | None = None, step: int = 0) -> None:
        """Load, do the tasks, advise, write.

        Raises:
            InputError: something does not fit; a folder that was made by then is taken away again while it is empty.
        """
        project = Path(self.opt.project)
        is_new = not project.exists()
        self.load()
        self.open(folder)
        try:
            self._work(log, step)
        except InputError:
            made = [] if folder else [self.folder, project] if is_new else [self.folder]
            for each in made:
                if not any(each.iterdir()):
                    each.rmdir()
            raise

    def _work(self, log: TensorBoardLog | None, step: int) -> None:
        tasks = self.opt.task
        if "agreement" in tasks:
            self.run_agreement()
        if "errors" in tasks:
            self.run_errors()
        if {"errors", "balance"} & set(tasks) and "labels" not in tasks:
            self.run_balance()
        if "labels" in tasks:
            self.run_labels()
        if self.opt.compare:
            self.run_compare()
        if "capacity" in tasks:
            self.run_capacity()
        self.advise()
        self.write(log, step)

    def log_end(self) -> None:
        """Log the verdict and where the results are."""
        for sentence in self.summary["verdict"]:
            LOGGER.info(sentence)
        LOGGER.info(f"Results saved to {colorstr('bold', self.folder)}, report: {self.folder / 'report.html'}")


def diagnose(opt: argparse.Namespace, trainer: Trainer | None = None) -> Path:
    """Diagnose as the options of diagnose.py say and return the run folder.

    Args:
        opt: from ``options.build_parser``.
        trainer: ``train.run``, for --folds.

    Raises:
        InputError: an option or input does not fit; no run folder was made.
        WorkError: an output cannot be written, or a test of --fail-on holds (everything is written then).
    """
    from utils.cv import require_cv2
    from utils.paths import require_writable

    require_cv2()
    tests = read_tests(opt.fail_on or ())
    require_writable(opt.project)
    found = _prepared(opt, trainer=trainer)
    found.run(None)
    if opt.tensorboard:
        _write_events(found)
    found.log_end()
    codes = None if found.audit is None else found.audit.measured()
    check_tests(tests, found.advice_facts.run, codes)
    return found.folder


def diagnose_run(
    data: str | Path | Mapping[str, Any],
    folder: str | Path,
    *,
    views: Views | None = None,
    gt: GroundTruth | None = None,
    hyp: Mapping[str, Any] | None = None,
    log: TensorBoardLog | None = None,
    step: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Diagnose within another command and return the summary.

    Args:
        data: data set YAML, or its facts from ``check_dataset``.
        folder: where the files go; made if it is missing.
        views: predictions, from ``model_predictions.ViewCollector``; without them ``weights`` or ``pred`` among the
            options names their source.
        gt: the labelled objects that they are about; read from the data set otherwise.
        hyp: hyperparameters of the run, where the advice starts from.
        log: TensorBoard log of the run, for scalars and pictures.
        step: the epoch, for ``log``.
        options: any options of diagnose.py by name, as split="val", task=["errors"], imgsz=640.

    Raises:
        InputError: an option or input does not fit.
        WorkError: an output cannot be written.
    """
    opt = default_options(**{"train_images": 0, **options, "data": data})
    found = _prepared(opt, views=views, gt=gt, hyp=hyp)
    found.run(Path(folder), log, step)
    found.log_end()
    return found.summary


def _prepared(
    opt: argparse.Namespace,
    *,
    views: Views | None = None,
    gt: GroundTruth | None = None,
    hyp: Mapping[str, Any] | None = None,
    trainer: Trainer | None = None,
) -> Diagnosis:
    """Check options, rules, hyperparameters and the data set."""
    from utils.dataset_yaml import check_dataset
    from utils.diagnosis.audit import audited_facts
    from utils.hyperparameters import Hyperparameters
    from utils.paths import check_file

    check_options(opt, has_predictions=views is not None)
    rules = read_rules(opt.rules)
    base = runs.BaseHyp(hyp, "this run") if hyp is not None else runs.base_hyp(opt)
    base = runs.with_image_weights(base, opt.weights)
    Hyperparameters.from_dict(base.settings, source=base.source, strict=False)
    if isinstance(opt.data, (str, Path)):
        opt.data = check_file(opt.data)
        if set(opt.task) <= {"labels", "balance"}:  # which tell of an nc that contradicts the names
            _, facts, _ = audited_facts(opt.data, (opt.split,))
        else:
            facts = check_dataset(opt.data, splits=(opt.split,))
    else:
        facts = check_dataset(dict(opt.data), splits=(opt.split,))
    if not facts.get(opt.split):
        raise InputError(f"--split {opt.split}: the data set has no '{opt.split}' entry")
    unknown = [c for c in opt.classes or () if c not in facts["names"]]
    if unknown:
        raise InputError(f"--classes {unknown[0]}: the data set's classes are 0 to {facts['nc'] - 1}")
    return Diagnosis(opt, facts, base, rules, gt, views, trainer)


def _labels_of(gt: GroundTruth) -> TrainFacts:
    """Return the labels of a split, an array for each image: class, and zeros for the box, which nothing asks for."""
    rows = np.zeros((len(gt), 5))
    rows[:, 0] = gt.cls
    return TrainFacts(Rows(rows, np.searchsorted(gt.image, np.arange(len(gt.images) + 1))), gt.nc)


def _write_events(found: Diagnosis) -> None:
    from utils.diagnosis.tensorboard import log_diagnosis
    from utils.loggers.tensorboard_log import TensorBoardLog, open_writer

    log = TensorBoardLog(open_writer(found.folder), found.folder)
    log_diagnosis(log, found.summary, found.crops, 0)
    log.close()


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
