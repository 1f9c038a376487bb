"""Models: what their YAMLs build, what the layers compute, and reference outputs."""

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models import common
from models.common import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3x,
    Classify,
    Contract,
    Conv,
    CrossConv,
    DWConv,
    DWConvTranspose2d,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    Proto,
    autopad,
)
from models.experimental import Ensemble, MixConv2d, Sum
from models.parsing import parse_activation, resolve_argument
from models.yolo import ClassificationModel, Detect, DetectionModel, Model, SegmentationModel, parse_model
from utils.errors import InputError, MissingFileError
from utils.logs import LOGGER
from utils.model_ops import count_gflops, fuse_conv_and_bn, initialize_weights, make_divisible, model_info, scale_img
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
YAMLS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "models").rglob("yolo*.yaml"))
GOLDEN_MODELS = ("yolov5n", "yolov5s", "yolov5n6", "yolov5s-ghost", "yolov5n-seg")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_random_weights(monkeypatch):
    """Leave convolution weights as allocated: building large models then takes no time."""
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor)


@pytest.fixture(scope="module")
def nano():
    torch.manual_seed(0)
    return DetectionModel("yolov5n.yaml").eval()


def tiny_yaml(**changes):
    """A model of four layers with one output at stride 4."""
    settings = {
        "nc": 2,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "anchors": [[4, 4, 8, 8]],
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
        "head": [[-1, 1, "C3", [16]], [[2], 1, "Detect", ["nc", "anchors"]]],
    }
    return {**settings, **changes}


# ---- YAMLs ----


@pytest.mark.parametrize("path", YAMLS)
def test_yaml_builds_the_model_of_the_contract(path, contract, without_random_weights):
    facts = json.loads((contract / "models.json").read_text())[path]
    model = DetectionModel(ROOT / path)
    assert read_yaml(ROOT / path) == {
        k: v if not isinstance(v, list) else plain_rows(v) for k, v in facts["yaml"].items()
    }
    layers, parameters, gradients, gflops = model_info(model, verbose=False)
    assert (layers, parameters, gradients) == (facts["leaf_modules"], facts["params"], facts["gradients"])
    assert gflops == pytest.approx(facts["gflops_640"], abs=1e-4)
    assert model.stride.tolist() == facts["stride"]
    assert model.save == facts["save"]
    assert [m.type for m in model.model] == facts["layer_types"]
    assert [m.np for m in model.model] == facts["layer_params"]
    assert [m.f for m in model.model] == facts["layer_from"]
    assert [m.i for m in model.model] == list(range(len(model.model)))
    assert model.model[-1].anchors.tolist() == facts["anchors_grid_units"]
    assert len(model.state_dict()) == facts["state_dict_entries"]
    assert {type(m.act).__name__ for m in model.modules() if type(m) is Conv} - {"Identity"} == {facts["act"]}
    keys = contract / "state_dict_keys" / f"{Path(path).stem}.json"
    if keys.exists():
        shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
        assert list(shapes.items()) == list(json.loads(keys.read_text()).items())


def plain_rows(rows):
    """JSON rows as YAML gives them."""
    return json.loads(json.dumps(rows))


@pytest.mark.parametrize(
    "path", [p for p in YAMLS if Path(p).stem in {"yolov5n", "yolov5s-transformer", "yolov3-tiny"}]
)
def test_summary_line_before_and_after_fusing(path, contract, monkeypatch, without_random_weights):
    facts = json.loads((contract / "models.json").read_text())[path]
    lines = []
    monkeypatch.setattr(LOGGER, "info", lambda text, *_: lines.append(text))
    model = DetectionModel(path)
    assert facts["summary"] in lines
    model.fuse()
    assert lines[-1] == facts["fused"]["summary"]
    assert len(model.state_dict()) == facts["fused"]["state_dict_entries"]


def test_anchor_collection_is_refused_as_a_model():
    with pytest.raises(InputError, match=r"anchors\.yaml: missing keys nc, .*backbone, head"):
        DetectionModel(ROOT / "models/hub/anchors.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": [[-1, 1, "Conw", [8, 3, 2]]]}, ["row 0", "'Conw'", "did you mean 'Conv'"]),
        ({"backbone": [[-1, 1, "nn.Upsampel", [8]]]}, ["row 0", "did you mean 'nn.Upsample'"]),
        ({"backbone": [[-1, 1, "__import__('os').system('true')", []]]}, ["unknown layer"]),
        ({"backbone": [[-1, 1, "nn.functional.relu", []]]}, ["unknown layer"]),
        ({"backbone": [[5, 1, "Conv", [8, 3, 2]]]}, ["row 0", "from 5"]),
        ({"backbone": [[-1, 1, "Conv"]]}, ["row 0", "expected [from"]),
        ({"backbone": [[-1, 1, "Conv", [8, 3, 2, 0, 0, 0, 0, 0, 0]]]}, ["row 0"]),
        ({"nc": 0}, ["nc: 0"]),
        ({"nc": "many"}, ["nc: 'many'"]),
        ({"activation": "nn.SILU()"}, ["activation", "nn.SILU()"]),
        ({"activation": "__import__('os').getcwd()"}, ["activation"]),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes, words):
    with pytest.raises(InputError) as error:
        DetectionModel(tiny_yaml(**changes))
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


def test_missing_yaml_is_named():
    with pytest.raises(MissingFileError, match=r"nowhere\.yaml"):
        DetectionModel("nowhere.yaml")


def test_settings_given_as_a_mapping_stay_unchanged():
    settings_ = tiny_yaml()
    before = copy.deepcopy(settings_)
    model = DetectionModel(settings_, ch=1, nc=5, anchors=3)
    assert settings_ == before
    assert (model.yaml["ch"], model.yaml["nc"], model.yaml["anchors"]) == (1, 5, 3)
    assert model.model[0].conv.in_channels == 1
    assert model.model[-1].na == 3 and model.model[-1].nc == 5
    assert model.names == ["0", "1", "2", "3", "4"]


def test_activation_is_for_one_model_alone():
    leaky = DetectionModel(tiny_yaml(activation="nn.LeakyReLU(0.1)"))
    assert leaky.model[0].act.negative_slope == 0.1
    assert isinstance(DetectionModel(tiny_yaml()).model[0].act, nn.SiLU)
    with pytest.raises(InputError):
        DetectionModel(tiny_yaml(activation="nn.ReLU()", backbone=[[-1, 1, "Nothing", []]]))
    assert isinstance(common.Conv.default_act, nn.SiLU)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nn.SiLU()", nn.SiLU),
        ("torch.nn.Hardswish()", nn.Hardswish),
        ("nn.LeakyReLU(negative_slope=0.2)", nn.LeakyReLU),
    ],
)
def test_activation_text(text, kind):
    assert type(parse_activation(text)) is kind


@given(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.integers()),
        st.none(),
    )
)
def test_arguments_that_are_literals_come_back(value):
    assert resolve_argument(repr(value), {}) == value
    assert resolve_argument(value, {}) == value


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_argument_text_never_raises(text):
    resolve_argument(text, {"nc": 3})


def test_arguments_use_the_names_of_the_yaml():
    assert resolve_argument("nc", {"nc": 3}) == 3
    assert resolve_argument("nearest", {"nc": 3}) == "nearest"


@given(st.integers(1, 5000), st.integers(1, 64))
def test_make_divisible_is_the_next_multiple(x, divisor):
    y = make_divisible(x, divisor)
    assert y % divisor == 0 and 0 <= y - x < divisor


def test_repeats_of_a_plain_layer_become_a_sequence():
    layers, save = parse_model(
        tiny_yaml(head=[[-1, 3, "Bottleneck", [16]], [[2], 1, "Detect", ["nc", "anchors"]]]), [3]
    )
    assert isinstance(layers[2], nn.Sequential) and len(layers[2]) == 3
    assert layers[2].type == "models.common.Bottleneck" and save == [2]


# ---- reference numbers ----


@pytest.fixture(scope="module", params=GOLDEN_MODELS)
def reference(request, golden, golden_inputs):
    """(name, facts, close(tensor, key) -> largest difference, filled model, image)."""
    name = request.param
    facts, arrays = golden("forward")
    model = golden_inputs.fill_model(DetectionModel(f"{name}.yaml", nc=80))

    def difference(tensor, key):
        wanted = arrays[f"{name}/{key}"]
        return np.abs(golden_inputs.subsample(tensor.detach().numpy(), wanted.size) - wanted).max()

    def refill():
        return golden_inputs.fill_model(model)

    return name, facts[name], difference, refill, torch.from_numpy(golden_inputs.image(128, 128))


def test_evaluation_matches_reference(reference):
    _, facts, difference, refill, image = reference
    model = refill().eval()
    with torch.no_grad():
        decoded, *rest, raw = model(image)
    assert list(decoded.shape) == facts["eval_decoded"]["shape"]
    assert difference(decoded, "eval_decoded") < 1e-3
    assert difference(decoded[0, 0], "eval_row0") < 1e-3
    assert difference(decoded[0, -1], "eval_row_last") < 1e-3
    for i, layer in enumerate(raw):
        assert list(layer.shape) == facts["eval_raw"][i]["shape"]
        assert difference(layer, f"eval_raw{i}") < 1e-5
    if rest:
        assert difference(rest[0], "eval_proto") < 1e-5
    fused = copy.deepcopy(model).fuse()
    with torch.no_grad():
        assert (fused(image)[0] - decoded).abs().max() < 1e-3


def test_augmented_evaluation_matches_reference(reference):
    name, facts, difference, refill, image = reference
    if "augment_decoded" not in facts:
        pytest.skip("no reference for masks")
    model = refill().eval()
    with torch.no_grad():
        decoded, raw = model(image, augment=True)
    assert raw is None and list(decoded.shape) == facts["augment_decoded"]["shape"], name
    assert difference(decoded, "augment_decoded") < 1e-3


def test_training_matches_reference(reference):
    name, facts, difference, refill, image = reference
    model = refill().train()
    raw = model(image)
    if facts.get("train_proto"):
        raw, proto = raw
        assert difference(proto, "train_proto") < 1e-3
    for i, layer in enumerate(raw):
        assert difference(layer, f"train_raw{i}") < (1e-2 if name == "yolov5n6" else 1e-3)
    after, state = facts["train_first_bn_after"], model.state_dict()
    np.testing.assert_allclose(state[after["key"]].numpy(), after["running_mean"], rtol=1e-5)
    np.testing.assert_allclose(
        state[after["key"].replace("running_mean", "running_var")].numpy(), after["running_var"], rtol=1e-5
    )
    norms = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {tuple(x) for x in facts["bn_eps_momentum"]}


@pytest.mark.parametrize("nc", [80, 3, 1])
def test_head_starts_with_the_reference_biases(nc, golden):
    wanted = golden("schedule_and_data")[0]["detect_bias_init"][str(nc)]
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=nc)
    before = [conv.bias.detach().clone().view(3, -1) for conv in model.model[-1].m]
    model._initialize_biases()
    for conv, old, objectness in zip(model.model[-1].m, before, wanted["obj_added_per_layer"], strict=True):
        added = conv.bias.detach().view(3, -1) - old
        assert added[:, :4].abs().max() == 0
        torch.testing.assert_close(added[:, 4], torch.full((3,), objectness))
        torch.testing.assert_close(added[:, 5:], torch.full((3, nc), wanted["class_added"]), rtol=1e-5, atol=2e-6)
    means = [old[:, 4].mean().item() for old in before]
    assert means == pytest.approx(wanted["measured_mean_obj"], abs=0.15)


def test_class_biases_follow_frequencies():
    """cf = (1, 3): log(1/4), log(3/4)."""
    model = DetectionModel(tiny_yaml())
    old = model.model[-1].m[0].bias.detach().clone().view(2, -1)
    model._initialize_biases(torch.tensor([1.0, 3.0]))
    added = model.model[-1].m[0].bias.detach().view(2, -1) - old
    torch.testing.assert_close(added[0, 5:], torch.tensor([0.25, 0.75]).log())


# ---- models ----


def test_decoding_by_hand():
    """Zero logits: centre = cell + 0.5 cells, size = anchor, probabilities 0.5."""
    model = DetectionModel(tiny_yaml()).eval()
    head = model.model[-1]
    for parameter in head.m.parameters():
        nn.init.zeros_(parameter)
    decoded, raw = model(torch.zeros(1, 3, 8, 12))
    assert raw[0].shape == (1, 2, 2, 3, 7) and decoded.shape == (1, 12, 7)
    torch.testing.assert_close(decoded[0, 0], torch.tensor([2.0, 2, 4, 4, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(decoded[0, 5, :4], torch.tensor([10.0, 6, 4, 4]))
    torch.testing.assert_close(decoded[0, 6, :4], torch.tensor([2.0, 2, 8, 8]))


def test_building_leaves_norms_and_random_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model = DetectionModel(tiny_yaml())
    norm = model.model[0].bn
    assert norm.running_var.eq(1).all() and norm.num_batches_tracked == 0
    torch.set_rng_state(state)
    again = DetectionModel(tiny_yaml())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_counting_operations_changes_nothing():
    model = DetectionModel(tiny_yaml()).train()
    model.model[0].bn.eval()
    before = copy.deepcopy(model.state_dict())
    assert count_gflops(model, 64) > 0
    assert model.training and not model.model[0].bn.training
    assert all(torch.equal(a, before[k]) for k, a in model.state_dict().items())


def test_gflops_scale_with_area(nano):
    assert count_gflops(nano, 320) == pytest.approx(count_gflops(nano, 640) / 4)
    assert count_gflops(nano, (320, 640)) == pytest.approx(count_gflops(nano, 640) / 2)
    assert count_gflops(nano, 100) == pytest.approx(count_gflops(nano, 640) * (100 / 640) ** 2)


def test_grids_follow_shape_and_type(nano):
    with torch.inference_mode():
        nano(torch.rand(1, 3, 64, 96))
    head = nano.model[-1]
    assert head.grid[0].shape == (1, 3, 8, 12, 2)
    kept = head.grid[0]
    nano(torch.rand(2, 3, 64, 96))
    assert head.grid[0] is kept
    decoded, _ = nano(torch.rand(1, 3, 64, 64))
    decoded.sum().backward()  # grids made under inference_mode do not get in the way
    half = copy.deepcopy(nano).half()
    assert half.model[-1].stride.dtype is torch.float16 and half.model[-1].anchors.dtype is torch.float16
    nano.zero_grad()


def test_copies_and_files_hold_no_grids(nano):
    with torch.no_grad():
        nano(torch.rand(1, 3, 64, 64))
    copied = copy.deepcopy(nano)
    assert all(x.numel() == 0 for x in [*copied.model[-1].grid, *copied.model[-1].anchor_grid])
    assert nano.model[-1].grid[0].numel() > 0


def test_pickled_attributes_are_those_of_the_contract(contract, nano):
    classes = json.loads((contract / "modules.json").read_text())["classes"]
    internals = set(json.loads((contract / "modules.json").read_text())["nn_module_internals"])
    for module in nano.modules():
        path = f"{type(module).__module__}.{type(module).__qualname__}"
        if path not in classes or path.startswith("models.yolo.D") and module is nano:
            continue
        state = module.__getstate__() if isinstance(module, Detect) else vars(module)
        allowed = set(classes[path]["attributes"]) | internals | {"default_act"}
        assert set(state) <= allowed, (path, set(state) - allowed)
        assert set(classes[path]["always_present"]) - {"i", "f", "type", "np"} <= set(state) | {"name"}, path
    names = set(vars(nano)) - internals
    assert names <= set(classes["models.yolo.DetectionModel"]["attributes"])


def test_model_round_trip_through_pickle(nano):
    buffer = io.BytesIO(pickle.dumps(nano))
    again = pickle.load(buffer)  # noqa: S301
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(image)[0], nano(image)[0])
    assert Model is DetectionModel and type(again) is DetectionModel


def test_heads_of_old_files_run(nano):
    """Releases before 6.0 kept anchor_grid as a buffer, ``export`` on the instance, and no ``inplace``."""
    model = copy.deepcopy(nano)
    head = model.model[-1]
    state = vars(head).copy()
    state["_buffers"] = {**head._buffers, "anchor_grid": torch.zeros(3, 1, 3, 1, 1, 2)}
    state["grid"] = [torch.zeros(1)] * 3
    state["export"] = True
    del state["anchor_grid"], state["inplace"]
    old = Detect.__new__(Detect)
    old.__setstate__(state)
    model.model[-1] = old
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image)[0], nano(image)[0])


def test_trace_equals_the_model(nano):
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(nano, image, strict=False)
        torch.testing.assert_close(traced(image)[0], nano(image)[0])


def test_export_returns_the_decoded_predictions_alone(nano):
    model = copy.deepcopy(nano)
    model.model[-1].export = True
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (decoded,) = model(image)
        torch.testing.assert_close(decoded, nano(image)[0])
    assert decoded.shape == (1, 252, 85)


def test_segmentation_outputs():
    model = SegmentationModel("yolov5n-seg.yaml", nc=2)
    raw, proto = model(torch.rand(2, 3, 64, 64))
    assert proto.shape == (2, 32, 16, 16) and raw[0].shape == (2, 3, 8, 8, 39)
    model.eval()
    decoded, proto, raw = model(torch.rand(1, 3, 64, 64))
    assert decoded.shape == (1, 252, 39)
    model.model[-1].export = True
    assert len(model(torch.rand(1, 3, 64, 64))) == 2


def test_classification_model_takes_the_backbone():
    detection = DetectionModel("yolov5n.yaml")
    model = ClassificationModel(model=detection, nc=7)
    assert len(model.model) == 10 and model.model[-1].type == "models.common.Classify"
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert count_gflops(model, 224) > 0
    built = ClassificationModel(cfg="yolov5n.yaml", nc=3)
    assert built.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(InputError, match="built from a model YAML or model="):
        ClassificationModel()


def test_augmentation_of_one_layer_models_and_ensembles(nano):
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        single, joined = nano(image), Ensemble([nano, nano])(image)
        assert torch.equal(joined[0], torch.cat([single[0], single[0]], 1)) and joined[1] is None
        assert Ensemble([nano])(image, augment=True)[0].shape[1] == nano(image, augment=True)[0].shape[1]


@pytest.mark.parametrize("flips", [None, 2, 3])
def test_descaling_undoes_scale_and_mirror(flips, nano):
    """A box at (30, 20) of size 10 x 4 in a 100 x 80 image, seen at half size, mirrored."""
    x, y = (100 - 30 if flips == 3 else 30), (80 - 20 if flips == 2 else 20)
    seen = torch.tensor([[[x / 2, y / 2, 5.0, 2.0, 0.9]]])
    back = nano._descale_pred(seen, flips, 0.5, (80, 100))
    torch.testing.assert_close(back, torch.tensor([[[30.0, 20.0, 10.0, 4.0, 0.9]]]))


def test_profile_logs_each_layer(nano, monkeypatch):
    pytest.importorskip("utils.torch_utils")
    lines = []
    monkeypatch.setattr(LOGGER, "info", lambda text, *_: lines.append(text))
    nano(torch.rand(1, 3, 32, 32), profile=True)
    assert len(lines) == len(nano.model) + 2


# ---- layers ----


@pytest.mark.parametrize(
    ("k", "p", "d", "wanted"), [(3, None, 1, 1), (6, 2, 1, 2), (3, None, 2, 2), ((1, 3), None, 1, [0, 1]), (1, 0, 1, 0)]
)
def test_autopad(k, p, d, wanted):
    assert autopad(k, p, d) == wanted


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(8, 16, 3, 2), (16, 4, 4)),
        (DWConv(8, 16, 3), (16, 8, 8)),
        (DWConvTranspose2d(8, 8, 4, 2, 1), (8, 16, 16)),
        (Bottleneck(8, 8), (8, 8, 8)),
        (BottleneckCSP(8, 16, 2), (16, 8, 8)),
        (CrossConv(8, 8, 3, 1, 1, 1.0, True), (8, 8, 8)),
        (C3(8, 16, 2), (16, 8, 8)),
        (C3x(8, 16, 2), (16, 8, 8)),
        (common.C3TR(8, 16, 2), (16, 8, 8)),
        (common.TransformerBlock(8, 16, 4, 1), (16, 8, 8)),
        (common.C3SPP(8, 16), (16, 8, 8)),
        (common.C3Ghost(8, 16, 2), (16, 8, 8)),
        (SPP(8, 16), (16, 8, 8)),
        (SPPF(8, 16), (16, 8, 8)),
        (Focus(8, 16, 3), (16, 4, 4)),
        (GhostConv(8, 16, 3, 2), (16, 4, 4)),
        (GhostBottleneck(8, 16, 3, 2), (16, 4, 4)),
        (GhostBottleneck(8, 8), (8, 8, 8)),
        (Proto(8, 16, 4), (4, 16, 16)),
        (MixConv2d(8, 16, (1, 3, 5)), (16, 8, 8)),
        (MixConv2d(8, 16, (1, 3), 2, equal_ch=False), (16, 4, 4)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_layer_shapes(layer, shape):
    assert layer(torch.rand(2, 8, 8, 8)).shape == (2, *shape)


def test_classify_joins_a_list():
    head = Classify(8, 5).eval()
    assert head([torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)]).shape == (2, 5)


def test_sppf_equals_spp():
    torch.manual_seed(0)
    fast, plain = SPPF(8, 8, 5).eval(), SPP(8, 8, (5, 9, 13)).eval()
    plain.load_state_dict(fast.state_dict())
    x = torch.rand(1, 8, 20, 20)
    torch.testing.assert_close(fast(x), plain(x))


def test_expand_undoes_contract_for_one_channel():
    x = torch.rand(1, 1, 6, 4)
    assert Contract(2)(x).shape == (1, 4, 3, 2)
    assert torch.equal(Expand(2)(Contract(2)(x)), x)


def test_focus_takes_phases_row_first():
    focus = Focus(1, 4).eval()
    focus.conv.conv.weight.data = torch.eye(4).view(4, 4, 1, 1)
    focus.conv.act = nn.Identity()
    with torch.no_grad():
        y = focus(torch.tensor([[[[1.0, 2], [3, 4]]]])) * (1 + focus.conv.bn.eps) ** 0.5
    torch.testing.assert_close(y.flatten(), torch.tensor([1.0, 3, 2, 4]))


def test_sum_weighs_by_sigmoid():
    x = [torch.ones(1), torch.full((1,), 2.0), torch.full((1,), 3.0)]
    assert Sum(3)(x).item() == 6
    weights = torch.sigmoid(torch.tensor([-0.5, -1.0])) * 2
    assert Sum(3, weight=True)(x).item() == pytest.approx((1 + 2 * weights[0] + 3 * weights[1]).item())


def test_fused_convolution_equals_the_pair():
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(4, 6, 3, groups=2, bias=True), nn.BatchNorm2d(6).eval()
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    x = torch.rand(2, 4, 8, 8)
    fused = fuse_conv_and_bn(conv, bn)
    torch.testing.assert_close(fused(x), bn(conv(x)), rtol=1e-5, atol=1e-5)
    assert fused.weight.requires_grad and fused.weight.is_leaf


def test_initial_settings_of_norms_and_activations():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.SiLU(), nn.Hardswish(), nn.Sigmoid())
    initialize_weights(model)
    assert (model[0].eps, model[0].momentum) == (1e-3, 0.03) and model[1].inplace and model[2].inplace


def test_scaled_images_are_padded_to_the_grid():
    x = torch.zeros(1, 3, 64, 96)
    assert scale_img(x, 1.0) is x
    y = scale_img(x, 0.67, gs=32)
    assert y.shape == (1, 3, 64, 96)
    assert y[0, 0, 41, 63] == 0 and y[0, 0, 42, 0] == pytest.approx(0.447) and y[0, 0, 0, 64] == pytest.approx(0.447)
    assert scale_img(x, 0.5, same_shape=True).shape == (1, 3, 32, 48)


@pytest.mark.gpu
def test_model_runs_on_a_gpu_in_half_precision(nano):
    model = copy.deepcopy(nano).cuda().half()
    decoded, _ = model(torch.rand(1, 3, 64, 64, device="cuda", dtype=torch.float16))
    assert decoded.dtype is torch.float16 and decoded.isfinite().all()


def test_visualize_is_an_argument_of_every_model(tmp_path, monkeypatch):
    """As up to v7.0; scripts pass ``visualize=False`` as well."""
    from models.experimental import Ensemble

    taken: list[tuple[int, Path]] = []
    monkeypatch.setattr("utils.plots.feature_visualization", lambda x, kind, i, save_dir: taken.append((i, save_dir)))
    model = Model("yolov5n.yaml").eval()
    x = torch.zeros(1, 3, 64, 64)
    for each in (model, Ensemble([model])):
        with torch.inference_mode():
            plain, seen = each(x, augment=False, visualize=False), each(x, visualize=tmp_path / "maps")
        assert torch.equal(plain[0], seen[0])
        assert taken == [(i, tmp_path / "maps") for i in range(25)]
        taken.clear()
