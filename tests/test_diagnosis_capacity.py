"""The capacity answer: what model sizes cost is measured, and only symptoms that a larger one cures speak for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from utils.diagnosis.capacity import FAMILY, Cost, answer, find_symptoms, judge_capacity, measure

COSTS = [Cost("yolov5n", 1_900_000, 4.5, 10.0, 50.0, 5), Cost("yolov5s", 7_200_000, 16.5, 25.0, 90.0, 5, True),
         Cost("yolov5m", 21_200_000, 49.0, 60.0, 200.0, 5)]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "present", "speaks_for"),
    [
        ({}, [], False),
        ({"delta_cls": 9.0, "symmetric_share": 0.6}, ["similar classes confused both ways"], True),
        ({"delta_cls": 1.0, "symmetric_share": 0.9}, [], False),
        ({"delta_cls": 9.0, "rare_share": 0.5}, ["rare classes taken for frequent ones"], False),
        ({"map50_train": 55.0, "map_gap": 2.0}, ["training images not learned either"], True),
        ({"map50_train": 95.0, "map_gap": 2.0}, [], False),
        ({"map50_train": 95.0, "map_gap": 30.0}, ["training images known by heart"], False),
        ({"missed": 50, "missed_small_share": 0.8}, ["small objects missed"], False),
        ({"wrong_label_share": 0.02}, ["wrong labels"], False),
        ({"delta_bkg": 6.0}, ["detections on background"], False),
        ({"delta_cls": None, "symmetric_share": 0.6}, [], False),
    ],
)
def test_symptoms_and_what_they_ask_for(facts: dict[str, Any], present: list[str], speaks_for: bool) -> None:
    symptoms = find_symptoms(facts)
    assert [symptom.name for symptom in symptoms if symptom.present] == present
    assert ("A larger model would address" in answer(COSTS, symptoms)) is speaks_for


def test_answer_weighs_the_next_size() -> None:
    text = answer(COSTS, find_symptoms({"delta_cls": 9.0, "symmetric_share": 0.6, "rare_share": 0.5}))
    assert "similar classes confused both ways." in text and "It would not, or not first, address: rare classes" in text
    assert "yolov5m, takes 2.4 times as long an image (60.0 ms for 25.0 ms) and has 2.9 times the parameters." in text
    assert "Nothing was measured" in answer(COSTS, [])
    assert "The next size" not in answer(COSTS[:2], [])


def test_costs_are_measured() -> None:
    """yolov5n with 80 classes has 1,867,405 parameters, and at 640 pixels 4.5 GFLOPs, so 1/100 of it at 64."""
    cost = measure("yolov5n", 80, 64, torch.device("cpu"))
    assert cost.parameters == 1_867_405 and cost.gflops == pytest.approx(0.0456, rel=0.02)
    assert cost.ms > 0 and cost.passes >= 3


@pytest.mark.slow
def test_processes_measure_memory_and_the_judged_size_is_marked() -> None:
    found = judge_capacity({}, nc=80, imgsz=320, device="cpu", models=FAMILY[:3], parameters=1_900_000)
    assert [cost.current for cost in found.costs] == [True, False, False]
    memory = [cost.memory for cost in found.costs]
    assert memory == [None] * 3 or (memory == sorted(memory) and memory[0] > 5)
    facts = found.to_dict()
    assert facts["device"] == "CPU" and len(facts["costs"]) == 3 and facts["imgsz"] == 320
