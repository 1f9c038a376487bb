"""What larger and smaller models cost on this machine, beside the symptoms that a larger one would cure.

Costs are measured with untrained models of the architecture: their time and memory do not depend on the weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from utils.logs import LOGGER

if TYPE_CHECKING:
    import torch

FAMILY = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
FEW_MISSED = 5
SMALL_SIZE = 64
WARM_UP = 2  # passes before the clock runs
LEAST_PASSES, MOST_PASSES, SECONDS = 3, 30, 3.0  # timed passes of a model: until SECONDS are over
MIB = 1024 * 1024
NEAR = 0.15  # relative difference in parameters up to which a model is taken for one of the family


@dataclass(frozen=True)
class Cost:
    """What one model of the family costs for one image; memory None where this system does not tell it.

    parameters: of the fused model. gflops: two operations a multiply-add. ms: median of a forward pass without
    suppression. memory: MiB at the peak, weights and activations of one image. current: whether the judged model has
    its size.
    """

    model: str
    parameters: int
    gflops: float
    ms: float
    memory: float | None
    passes: int
    current: bool = False


@dataclass(frozen=True)
class Symptom:
    """A sign for or against a larger model. helps: yes, no or unclear; measured: the evidence in words."""

    name: str
    measured: str
    present: bool
    helps: str
    why: str


@dataclass(frozen=True)
class Capacity:
    """Costs of the family, symptoms, and what follows from both, in words."""

    costs: tuple[Cost, ...]
    symptoms: tuple[Symptom, ...]
    answer: str
    imgsz: int
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and mappings for summary.json."""
        return {
            "costs": [asdict(cost) for cost in self.costs],
            "symptoms": [asdict(symptom) for symptom in self.symptoms],
            "answer": self.answer, "imgsz": self.imgsz, "device": self.device, "threads": self.threads,
        }  # fmt: skip


def judge_capacity(
    facts: Mapping[str, Any],
    nc: int,
    imgsz: int,
    device: str = "",
    models: Sequence[str] = FAMILY,
    parameters: int | None = None,
) -> Capacity:
    """Measure the family and weigh its costs against the symptoms.

    Args:
        facts: values of the run by the names of ``fact_table.RUN_FACTS``; unknown ones missing or None.
        nc: classes.
        imgsz: image side in pixels.
        device: as --device.
        models: names of the family's YAMLs, from the smallest.
        parameters: of the judged model, to mark its size; None when there is none.
    """
    import torch

    from utils.torch_utils import select_device

    chosen = select_device(device)
    costs = []
    for name in models:
        costs.append(_cost_apart(name, nc, imgsz) if chosen.type == "cpu" else measure(name, nc, imgsz, chosen))
        LOGGER.info(
            f"{name}: {costs[-1].parameters:,} parameters, {costs[-1].gflops:.1f} GFLOPs, {costs[-1].ms:.1f} ms"
        )
    costs = _marked(costs, parameters)
    symptoms = find_symptoms(facts)
    named = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "CPU"
    return Capacity(tuple(costs), tuple(symptoms), answer(costs, symptoms), imgsz, named, torch.get_num_threads())


def measure(name: str, nc: int, imgsz: int, device: torch.device) -> Cost:
    """Build a model of the family and measure one image through it, float32.

    Raises:
        InputError: no such model YAML.
    """
    import torch

    from models.yolo import DetectionModel
    from utils.model_ops import count_gflops

    is_cuda = device.type == "cuda"
    before = _cuda_start(device) if is_cuda else _process_memory("VmRSS")
    model = DetectionModel(f"{name}.yaml", nc=nc).eval()
    gflops = count_gflops(model, imgsz)
    model = model.fuse().to(device)
    parameters = sum(p.numel() for p in model.parameters())
    image = torch.zeros(1, 3, *(_on_grid(imgsz, model),) * 2, device=device)
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP):
            model(image)
        started = perf_counter()
        while len(times) < LEAST_PASSES or (len(times) < MOST_PASSES and perf_counter() - started < SECONDS):
            times.append(_timed(model, image, device))
    after = torch.cuda.max_memory_allocated(device) if is_cuda else _process_memory("VmHWM")
    memory = None if after is None or before is None else (after - before) / MIB
    return Cost(name, parameters, gflops, 1e3 * statistics.median(times), memory, len(times))


def _on_grid(imgsz: int, model: torch.nn.Module) -> int:
    from utils.model_ops import make_divisible

    return make_divisible(imgsz, int(model.stride.max()))


def _timed(model: torch.nn.Module, image: torch.Tensor, device: torch.device) -> float:
    from utils.torch_utils import time_sync

    started = time_sync(device)
    model(image)
    return time_sync(device) - started


def _cuda_start(device: torch.device) -> int:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _cost_apart(name: str, nc: int, imgsz: int) -> Cost:
    """Measure in a process of its own: the peak memory of a process never falls again."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import torch

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure_on_cpu, name, nc, imgsz, torch.get_num_threads()).result()


def _measure_on_cpu(name: str, nc: int, imgsz: int, threads: int) -> Cost:
    import torch

    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    measure(FAMILY[0], nc, SMALL_SIZE, cpu)  # brings in all code, so that memory is that of the model alone
    return measure(name, nc, imgsz, cpu)


def _process_memory(entry: str) -> int | None:
    """Return bytes that this process has now (VmRSS) or had at most (VmHWM); None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
    except OSError:
        return None
    return int(lines[entry].split()[0]) * 1024


def _marked(costs: Sequence[Cost], parameters: int | None) -> list[Cost]:
    """Return the costs with the model marked that has about as many parameters as the judged one."""
    from dataclasses import replace

    if not parameters:
        return list(costs)
    near = min(costs, key=lambda cost: abs(cost.parameters - parameters))
    is_it = abs(near.parameters - parameters) <= NEAR * parameters
    return [replace(cost, current=is_it and cost is near) for cost in costs]


# Symptoms -------------------------------------------------------------------------------------------------------------


def find_symptoms(facts: Mapping[str, Any]) -> list[Symptom]:
    """Return the signs for and against a larger model; those that were not measured are left out."""

    def known(*names: str) -> bool:
        return all(facts.get(name) is not None for name in names)

    found = []
    if known("delta_cls", "symmetric_share"):
        cost, share = facts["delta_cls"], facts["symmetric_share"]
        found.append(
            Symptom(
                "similar classes confused both ways", f"class errors cost {cost:.1f} points, {share:.0%} both ways",
                cost >= 2 and share >= 0.5, "yes", "a larger model sees finer differences; so does a larger image",
            )
        )  # fmt: skip
    if known("delta_cls", "rare_share"):
        share = facts["rare_share"]
        found.append(
            Symptom(
                "rare classes taken for frequent ones", f"{share:.0%} of the class errors",
                facts["delta_cls"] >= 2 and share >= 0.3, "no", "the class is too seldom seen, by any model",
            )
        )  # fmt: skip
    if known("map50_train", "map_gap"):
        train, gap = facts["map50_train"], facts["map_gap"]
        measured = f"mAP50 {train:.1f} on training images, {gap:.1f} more than on the others"
        found.append(
            Symptom("training images not learned either", measured, train < 80 and gap < 5, "yes",
                    "the model is at its limit, or has not been trained long enough: look at the curves first")
        )  # fmt: skip
        found.append(
            Symptom("training images known by heart", measured, gap > 20, "no",
                    "a larger one learns them even better; more data or augmentation helps")
        )  # fmt: skip
    if known("missed", "missed_small_share"):
        share = facts["missed_small_share"]
        found.append(
            Symptom(
                "small objects missed", f"{share:.0%} of {facts['missed']:,} missed objects are small",
                facts["missed"] >= FEW_MISSED and share >= 0.5, "unclear",
                "a larger image or a finer output layer helps more",
            )
        )  # fmt: skip
    if known("delta_bkg"):
        cost = facts["delta_bkg"]
        found.append(
            Symptom("detections on background", f"they cost {cost:.1f} points", cost >= 5, "unclear",
                    "pictures without objects help more")
        )  # fmt: skip
    if known("wrong_label_share"):
        share = facts["wrong_label_share"]
        found.append(
            Symptom("wrong labels", f"{share:.1%} of the labels", share > 0.01, "no",
                    "no model learns what the labels contradict")
        )  # fmt: skip
    return found


def answer(costs: Sequence[Cost], symptoms: Sequence[Symptom]) -> str:
    """Return what costs and symptoms come to, in words."""
    present = [symptom for symptom in symptoms if symptom.present]
    cured = [symptom.name for symptom in present if symptom.helps == "yes"]
    others = [symptom.name for symptom in present if symptom.helps != "yes"]
    if not symptoms:
        text = "Nothing was measured that a larger model could cure: these are its costs alone."
    elif cured:
        text = f"A larger model would address: {', '.join(cured)}."
    else:
        text = "None of the symptoms found asks for a larger model."
    if others:
        text += f" It would not, or not first, address: {', '.join(others)}."
    places = [place for place, cost in enumerate(costs) if cost.current]
    if places and places[0] + 1 < len(costs):
        now, larger = costs[places[0]], costs[places[0] + 1]
        text += (
            f" The next size, {larger.model}, takes {larger.ms / now.ms:.1f} times as long an image "
            f"({larger.ms:.1f} ms for {now.ms:.1f} ms) and has {larger.parameters / now.parameters:.1f} times the "
            "parameters."
        )
    return text
