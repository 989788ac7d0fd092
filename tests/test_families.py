"""Whole families of networks: right to rounding, said where not, or refused. No fourth outcome.

`SWR_FAMILIES=all pytest -s tests/test_families.py` tries one model of every family of torchvision's
and timm's, for an hour, and prints what each comes to; otherwise a few small ones are tried.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import os
import warnings

import pytest
import torch
from torch import Tensor, nn

from swrlib import SoftWeightRescaling, rescale_
from swrlib.network.graph import NORMALIZATIONS
from swrlib.network.layers import trace

ALL = os.environ.get("SWR_FAMILIES") == "all"
SIDE = 64
#: What a normalization's eps leaves of a gap; set to nearly nothing where it can be.
ROUNDING = 1e-6

# One small model of each of torchvision's families.
TORCHVISION = {
    name: {}
    for name in (
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
        *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2"),
        *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
        *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"),
        *("vit_b_32", "wide_resnet50_2"),
    )
}
FEW = ["mnasnet0_5", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_b_32": 224, "swin_v2_t": 64}
NORMS = ["as it is", "none", "batch", "layer", "group"]


def renormalized(model: nn.Module, norm: str) -> nn.Module:
    """Exchange the normalizations of a model; one that has none to exchange is skipped."""
    if norm == "as it is":
        return model
    exchanged = False
    for name, module in list(model.named_modules()):
        if not isinstance(module, NORMALIZATIONS) or not name:
            continue
        channels = getattr(module, "num_features", getattr(module, "num_channels", None))
        if channels is None:
            if norm != "none":
                continue  # rows of features have a layer norm already
            new: nn.Module = nn.Identity()
        else:
            new = {
                "none": nn.Identity,
                "batch": lambda c=channels: nn.BatchNorm2d(c),
                "layer": lambda c=channels: nn.GroupNorm(1, c),
                "group": lambda c=channels: nn.GroupNorm(2 if c % 2 == 0 else 1, c),
            }[norm]()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
        exchanged = True
    if not exchanged:
        pytest.skip("nothing to exchange: tried as it is")
    return model


def prepared(model: nn.Module) -> nn.Module:
    """Return a model in float64 and evaluation mode whose biases and statistics are seen."""
    torch.manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_var", None) is not None:
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
            if isinstance(getattr(module, "eps", None), float):
                module.eps = 1e-30
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = model(x)
    found = found.values() if isinstance(found, dict) else found
    return [found] if isinstance(found, Tensor) else [y for y in found if isinstance(y, Tensor)]


def gap(before: list[Tensor], after: list[Tensor]) -> float:
    """Return how far outputs are from what they were times a constant; C is what fits best."""
    gaps = [0.0]
    for f, g in zip(before, after, strict=True):
        multiple = (f * g).sum() / (f * f).sum()
        gaps.append(float((g - multiple * f).norm() / (multiple * f).norm()))
    return max(gaps)


def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(state[name])


def drawn_factors(model: nn.Module, example: Tensor | None) -> dict[str, float]:
    draw = torch.Generator().manual_seed(1)
    return {
        layer.name: 1.0
        if layer.weight is None
        else float(torch.rand((), generator=draw, dtype=torch.float64)) + 0.5
        for layer in trace(model, example).layers
    }


def outcome(model: nn.Module, x: Tensor, example: Tensor | None) -> str:
    """Return what happens: right, said or refused; anything else is a fault."""
    before = outputs(model, x)
    if not all(y.isfinite().all() and y.norm() for y in before):
        return "skipped: its output is zero or not finite"
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        swr = SoftWeightRescaling(model, 0.5, running_statistics=True, example=example)
    except ValueError as error:
        assert "\n" not in str(error)
        return "refused"
    with torch.no_grad():
        for name, factor in drawn_factors(model, example).items():
            layer = model.get_submodule(name)
            if getattr(layer, "weight", None) is not None:
                layer.weight.mul_(factor)
    before = outputs(model, x)
    swr.step()
    ends = set(swr.summary()["proportional"])
    found = gap(before, outputs(model, x))
    restore(model, state)
    before = outputs(model, x)
    try:
        constant = rescale_(model, drawn_factors(model, example), example=example)
    except ValueError as error:
        assert "\n" not in str(error)
        by_factors = "refused"
    else:
        after = outputs(model, x)
        worst = max(
            float((g - constant * f).norm() / (constant * f).norm())
            for f, g in zip(before, after, strict=True)
        )
        assert worst < ROUNDING, f"rescale_: a gap of {worst:.2g} and no word of it"
        by_factors = "right"
    restore(model, state)
    if found < ROUNDING:
        if ends == {"yes"}:
            return "right" if by_factors == "right" else "right, and refused for these factors"
        return "said, and whole all the same"
    assert ends != {"yes"}, f"a gap of {found:.2g}, and the summary says yes"
    assert all(end == "yes" or end.startswith("no: ") for end in ends)
    return "said"


@contextlib.contextmanager
def exported_once():
    """Export the one model of a case once, not at each of the three traces: most of its time."""
    export, programs = torch.export.export, []

    def first(*args, **kwargs):
        if not programs:
            programs.append(export(*args, **kwargs))
        return programs[0]

    torch.export.export = first
    try:
        yield
    finally:
        torch.export.export = export


def tried(build, norm: str, exported: bool, side: int = SIDE) -> str:
    with warnings.catch_warnings(), exported_once():
        warnings.simplefilter("ignore", UserWarning)
        try:
            model = prepared(renormalized(build(), norm))
            x = torch.randn(2, 3, side, side, dtype=torch.float64)
            outputs(model, x)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            return f"skipped: {type(error).__name__}"
        return outcome(model, x, x if exported else None)


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("norm", NORMS if ALL else ["as it is", "none", "group"])
@pytest.mark.parametrize("name", TORCHVISION if ALL else FEW)
def test_torchvisions_families(name, norm, exported):
    if exported and not ALL and name not in ("resnet18", "squeezenet1_1"):
        pytest.skip("tried without an example alone, in a short run")
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    found = tried(
        lambda: getattr(models, name)(weights=None, **options),
        norm,
        exported,
        SIDES.get(name, SIDE),
    )
    count("torchvision", name, norm, exported, found)


def families() -> list[str]:
    """Return the smallest model of each of timm's files of models."""
    if importlib.util.find_spec("timm") is None:
        return []
    import timm

    found = {}
    for module in sorted(timm.list_modules()):
        names = timm.list_models(module=module)
        words = (
            "test_",
            "tiny",
            "pico",
            "nano",
            "atto",
            "micro",
            "small",
            "mini",
            "_s",
            "18",
            "b0",
        )
        ranked = sorted(
            names,
            key=lambda n: (
                [w in n for w in words].index(True) if any(w in n for w in words) else 99,
                len(n),
                n,
            ),
        )
        if ranked:
            found[module] = ranked[0]
    return list(dict.fromkeys(found.values()))


FEW_OF_TIMM = ["test_resnet", "test_vit", "test_convnext", "test_nfnet", "test_mambaout"]
FEW_OF_TIMM += ["test_efficientnet", "test_byobnet"]


#: What makes a model cheaper, where it takes that: a smaller image, fewer blocks.
SMALLER = [
    {"img_size": SIDE, "depth": 2},
    {"img_size": SIDE, "depths": (1, 1, 1, 1)},
    {"depths": (1, 1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
    {"depth": 2},
    {"img_size": SIDE},
    {},
]


@functools.lru_cache(maxsize=1)
def smallest(name: str) -> tuple[nn.Module, int]:
    """Return a model of timm's and the side of its images, both as small as they can be."""
    import timm

    cfg = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    whole = cfg.input_size[-1] if cfg else 224
    for options in SMALLER:
        try:
            model = timm.create_model(name, num_classes=5, **options).eval()
        except Exception:  # of any kind: it does not take them
            continue
        for side in (SIDE,) if "img_size" in options else (SIDE, 96, 112, 128, whole):
            try:
                found = outputs(model, torch.randn(1, 3, side, side))
            except Exception:  # of any kind: it takes no images of this size
                continue
            if all(y.isfinite().all() for y in found):
                return model, side
    pytest.skip("it does not run")


@pytest.mark.parametrize("exported", [False, True], ids=["symbolic", "exported"])
@pytest.mark.parametrize("norm", NORMS if ALL else ["as it is"])
@pytest.mark.parametrize("name", families() if ALL else FEW_OF_TIMM)
def test_timms_families(name, norm, exported):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip("this version of timm has no such model")
    model, side = smallest(name)
    if sum(p.numel() for p in model.parameters()) > 1e8 or side > 256:
        pytest.skip("too large")
    count("timm", name, norm, exported, tried(lambda: copy.deepcopy(model), norm, exported, side))


def count(library: str, name: str, norm: str, exported: bool, found: str) -> None:
    if ALL:
        print(
            f"{library} {name} {norm} {'exported' if exported else 'symbolic'}: {found}", flush=True
        )
    if found.startswith("skipped"):
        pytest.skip(found)
    assert found.startswith(("right", "said", "refused"))
