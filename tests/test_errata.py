"""One test for each entry of the errata page: each fails if the entry's statement is false."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import itertools
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import oracles
import pytest
import torch
from oracles import NamedLayer, algorithm_1, inputs_for, small_model, spread_factors
from scipy import stats
from torch import nn

from swrlib import SoftWeightRescaling, paper, rescaling, train
from swrlib.methods import L2, METHODS, SWR, HeadReset, L2Init, SWRReinit
from swrlib.theory import (
    adam_norm_bound,
    balance_,
    conv_spectral_norm,
    layer_balance,
    lipschitz_bound,
    norm_bound,
    output_gap,
    proportionality_gap,
    scale_,
)
from swrlib.theory.boundedness import largest_adam_step

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = nbformat.read(ROOT / "notebooks/errata.ipynb", as_version=4)


def entries() -> list[tuple[int, str, str, str]]:
    """Read the page's one list of entries from its source."""
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code" and "ENTRIES = [" in cell.source:
            for statement in ast.parse(cell.source).body:
                if isinstance(statement, ast.Assign) and statement.targets[0].id == "ENTRIES":
                    return ast.literal_eval(statement.value)
    raise AssertionError("the page has no list ENTRIES")


def sections() -> dict[int, tuple[str, str, str]]:
    """Return each entry's heading, its prose and its code."""
    found: dict[int, tuple[str, str, str]] = {}
    number = None
    for cell in NOTEBOOK.cells:
        heading = re.match(r"## (?:(\d+)\. )?(.+)", cell.source)
        if heading and cell.cell_type == "markdown":
            number = int(heading[1]) if heading[1] else None
            if number:
                found[number] = (heading[2].strip(), "", "")
        if number:
            title, prose, code = found[number]
            if cell.cell_type == "markdown":
                prose += cell.source + "\n"
            else:
                code += cell.source + "\n"
            found[number] = (title, prose, code)
    return found


def test_every_entry_has_a_section_a_test_and_links_that_exist():
    listed, found = entries(), sections()
    assert [number for number, *_ in listed] == list(range(1, len(listed) + 1)) == list(found)
    tests = [name for name in globals() if re.match(r"test_\d\d_", name)]
    for number, title, _, _ in listed:
        heading, prose, code = found[number]
        assert heading == title
        assert "**Printed.**" in prose and "**The case.**" in prose and "**Here.**" in prose
        assert f"conclude(\n    {number}," in code and "assert " in code
        assert any(name.startswith(f"test_{number:02d}_") for name in tests), number
        links = re.findall(r"\]\(([\w./]+)\)", prose)
        assert any(link.endswith(".ipynb") for link in links), number
        for link in links:
            assert (ROOT / "notebooks" / link).resolve().is_file(), f"{number}: {link}"


def mlp(*units: int) -> nn.Sequential:
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in itertools.pairwise(units)]
    return nn.Sequential(*itertools.chain(*layers))[:-1].double()


# --- 1 ---------------------------------------------------------------------------------------


def test_01_algorithm_1_as_printed_is_not_proportional_where_its_reading_is():
    """By a transcription of Algorithm 1 that does not use the library.

    The cases one by one: test_proportionality.test_two_biased_layers_before_a_normalization.
    """
    model, inputs = small_model("norms"), inputs_for("norms")
    layers = oracles.LAYERS["norms"]
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-100
    values = {n: p.detach().numpy() for n, p in model.named_parameters()}
    norms = {la.name: 2.0 * float(np.linalg.norm(values[f"{la.name}.weight"])) for la in layers}
    constant = 1.5 ** len(layers[4:])  # λ = ½ and half the norms: all factors are 1.5
    gaps = {}
    for variant in ("proportional", "printed"):
        rescaled = copy.deepcopy(model)
        lam = dict.fromkeys(("features", "classifier"), 0.5)
        after = algorithm_1(layers, values, norms, lam, variant)
        with torch.no_grad():
            for name, parameter in rescaled.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(after[name])))
        gaps[variant] = output_gap(rescaled, model, constant, inputs)
        library = proportionality_gap(model, [1.5] * len(layers), inputs, variant=variant)
        assert gaps[variant] == pytest.approx(library, rel=1e-6, abs=1e-12)
    assert gaps["proportional"] < 1e-12 and gaps["printed"] > 0.02


def test_01_without_normalization_both_are_the_same():
    values = {f"{name}.{part}": np.ones(3) for name in "ab" for part in ("weight", "bias")}
    layers = [NamedLayer(name, "linear", "features") for name in "ab"]
    norms, lam = {"a": 1.0, "b": 5.0}, {"features": 0.3}
    one, other = (algorithm_1(layers, values, norms, lam, v) for v in ("proportional", "printed"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_01_every_bias_from_the_last_normalization_on_is_scaled_once_too_often():
    """By c_{k−1}: the shift, and all that follow; by the transcription and by the library."""
    kinds = ("linear", "linear", "normalization", "linear", "linear")
    layers = [NamedLayer(name, kind, "features") for name, kind in zip("abcde", kinds, strict=True)]
    values = {f"{layer.name}.{part}": np.ones(3) for layer in layers for part in ("weight", "bias")}
    norms = {layer.name: (2.0 + number) * math.sqrt(3) for number, layer in enumerate(layers)}
    lam = {"features": 0.5}
    right, printed = (
        algorithm_1(layers, values, norms, lam, variant) for variant in ("proportional", "printed")
    )
    before = 0.5 * 3 + 0.5  # c of the second layer, whose norm is a third of its start
    for name in "cde":
        assert printed[f"{name}.bias"] == pytest.approx(before * right[f"{name}.bias"])
    assert printed["a.bias"] == pytest.approx(right["a.bias"])
    chain = nn.Sequential(
        *(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4))
    )
    biases = {name for name, _ in chain.named_parameters() if "bias" in name}
    ones = {name: torch.ones(4) for name in biases}
    found = {}
    for variant in ("proportional", "printed"):
        chain.load_state_dict(ones, strict=False)
        copied = copy.deepcopy(chain)
        rescaling.rescale_(copied, [3.0, 0.5, 1.0, 1.0, 1.0], variant=variant)
        found[variant] = [float(layer.bias.detach()[0]) for layer in copied]
    assert found["proportional"] == [3.0, 1.5, 1.0, 1.0, 1.0]
    assert found["printed"] == [3.0, 0.5, 0.5, 0.5, 0.5]


# --- 2 ---------------------------------------------------------------------------------------


def three_gaps(model: nn.Module) -> list[float]:
    modes = ({"training": True}, {}, {"running_statistics": False})
    inputs, halves = inputs_for("cnn-bn"), [0.5] * 6
    return [proportionality_gap(model, halves, inputs, **mode) for mode in modes]


def test_02_three_gaps_of_three_sizes():
    """With eps → 0 the first two vanish: test_proportionality.test_the_gap_vanishes_with_eps."""
    model = small_model("cnn-bn")
    oracles.train(model, "cnn-bn", steps=10)
    training, scaled, left = three_gaps(model)
    assert 1e-8 < training < 0.01 and 1e-8 < scaled < 0.01 and left > 0.3


def test_02_mutant_a_variance_scaled_like_the_mean_is_seen(monkeypatch):
    model = small_model("cnn-bn")
    oracles.train(model, "cnn-bn", steps=10)
    right = three_gaps(model)[1]
    real = rescaling.rescale_

    def wrong(network, factors, **options):
        before = {n: b.clone() for n, b in network.named_buffers() if n.endswith("running_var")}
        constant = real(network, factors, **options)
        with torch.no_grad():
            for name, value in before.items():
                network.get_buffer(name).copy_(value * (network.get_buffer(name) / value).sqrt())
        return constant

    monkeypatch.setattr("swrlib.theory.proportionality.rescale_", wrong)
    assert three_gaps(model)[1] > 10 * right


# --- 3 ---------------------------------------------------------------------------------------


def largest_norms(n0: float, lam: float, b: float, steps: int) -> tuple[float, float]:
    """Return the largest norms before and after rescalings, if every step adds B to the square."""
    n = before = n0
    for _ in range(steps):
        before = math.sqrt(n * n + b)
        n = lam * n0 + (1 - lam) * before
    return before, n


def test_03_the_printed_bound_holds_with_room_to_spare():
    before, after = largest_norms(1e-6, 1e-3, 1.0, steps=20_000)
    printed = norm_bound(1e-6, 1e-3, 1.0, kind="printed")
    sharp = norm_bound(1e-6, 1e-3, 1.0, when="before")
    assert before <= sharp < printed
    assert before == pytest.approx(sharp, rel=1e-6)
    assert after == pytest.approx(norm_bound(1e-6, 1e-3, 1.0), rel=1e-6)
    assert printed / sharp == pytest.approx(math.sqrt(2 / 1e-3), rel=1e-3)


def adam_moves(gradients, quiet: int, *, state: bool) -> float:
    number = nn.Parameter(torch.zeros(1).double())
    optimizer = torch.optim.Adam([number], lr=1.0, eps=1e-30, foreach=False)
    if state:
        zeros = {name: torch.zeros(1).double() for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[number] = {"step": torch.tensor(float(quiet))} | zeros
    before = 0.0
    for gradient in ([] if state else [0.0] * quiet) + gradients:
        before = number.item()
        number.grad = torch.tensor([gradient]).double()
        optimizer.step()
    return abs(number.item() - before)


def test_03_a_burst_moves_adam_further_than_the_quoted_bound():
    """All of its derivation is tested in test_boundedness; here the page's numbers."""
    burst, quoted = [(0.9 / 0.999) ** (100 - i) for i in range(1, 101)], 0.1 / math.sqrt(1e-3)
    assert quoted == pytest.approx(3.16, abs=0.005)
    assert largest_adam_step() == pytest.approx(7.27, abs=0.005)
    assert adam_moves(burst, 20_000, state=True) == pytest.approx(7.27, abs=0.005)
    assert adam_moves([1.0], 20_000, state=True) <= quoted * (1 + 1e-6)
    # A quiet phase does leave Adam in the state that the page starts from.
    taken = adam_moves(burst, 300, state=False)
    assert taken == pytest.approx(adam_moves(burst, 300, state=True), rel=1e-12)
    u = 7.2703 * 1e-3 * 100
    assert adam_norm_bound(5.8, 0.01, lr=1e-3, entries=10_000) == pytest.approx(
        5.8 + 99 * u, rel=1e-4
    )


# --- 4 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.5, 1.0, 0.5])
def test_04_biases_follow_the_products_without_a_bound(share):
    torch.manual_seed(0)
    model = mlp(4, 5, 5, 3)
    swr = SoftWeightRescaling(model, lam=0.01)
    start = [layer.weight.detach().clone() for layer in model[::2]]
    biases = [layer.bias.detach().clone() for layer in model[::2]]
    for _ in range(300):
        for layer, weight in zip(model[::2], start, strict=True):
            layer.weight.data.copy_(share * weight)
        swr.step()
    c = 0.01 / share + 0.99
    for depth, (layer, bias) in enumerate(zip(model[::2], biases, strict=True), start=1):
        torch.testing.assert_close(layer.bias.detach(), c ** (300 * depth) * bias)
    last = float((model[-1].bias.detach() / biases[-1]).mean())
    assert (last < 0.2, math.isclose(last, 1, rel_tol=1e-9), last > 1000) == (
        share > 1,
        share == 1,
        share < 1,
    )


# --- 5 ---------------------------------------------------------------------------------------


def test_05_frobenius_norms_bound_no_convolution_and_batch_norm_is_steep():
    """Factors and pools in general: test_lipschitz."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    nn.init.ones_(layer.weight)
    flat = torch.ones(1, 1, 16, 16)
    with torch.no_grad():
        stretched = float(layer(flat).norm() / flat.norm())
        assert stretched == pytest.approx(9) and float(layer.weight.norm()) == 3
    assert conv_spectral_norm(layer, (1, 16, 16)) == pytest.approx(9)
    assert lipschitz_bound(nn.Sequential(layer), flat, norm="frobenius") == pytest.approx(9)
    norm = nn.BatchNorm2d(1).eval()
    norm.running_var.zero_()
    with torch.no_grad():
        moved = float((norm(flat) - norm(torch.zeros_like(flat))).norm() / flat.norm())
    assert moved == pytest.approx(316, abs=0.5)
    assert lipschitz_bound(nn.Sequential(norm), flat) == pytest.approx(moved, rel=1e-5)


# --- 6 ---------------------------------------------------------------------------------------


def minimal_over_current(model: nn.Module) -> float:
    history = balance_(copy.deepcopy(model))
    return history.iloc[-1] / history.iloc[0]


def test_06_one_step_improves_one_balance_and_worsens_the_other():
    """One λ or two, over random cases: test_balancedness."""
    torch.manual_seed(0)
    model = mlp(64, 20, 20, 5)
    start = copy.deepcopy(model)
    swr = SoftWeightRescaling(model, lam=0.1)
    balance_(model)
    before = minimal_over_current(model), layer_balance(model, start)
    swr.step()
    after = minimal_over_current(model), layer_balance(model, start)
    assert before[0] == pytest.approx(1, abs=1e-6) and after[0] < before[0] - 1e-4
    assert (after[1] <= before[1] * (1 + 1e-12)).all() and after[1].max() < 0.99 * before[1].max()


def test_06_with_two_lambdas_a_pair_gets_worse_in_closed_form():
    """From 2 to 1 at the start and 2.2 to 1.1 now, the ratio is right; λ_c alone takes it away."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.fill_(2.0)
    start = copy.deepcopy(model)
    pair = SoftWeightRescaling(model, lam_features=0.0, lam_classifier=1.0)
    one = SoftWeightRescaling(model, lam=0.5)
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(1.1)
    one.step()
    assert layer_balance(model, start).item() == pytest.approx(0, abs=1e-12)
    del one  # weights have one owner
    pair.step()  # 2 over 1.05
    assert layer_balance(model, start).item() == pytest.approx(2 - 2 / 1.05)


def test_06_a_fresh_network_is_not_balanced():
    torch.manual_seed(0)
    assert minimal_over_current(mlp(3072, 100, 100, 10)) == pytest.approx(0.81, abs=0.01)


# --- 7 ---------------------------------------------------------------------------------------


def test_07_a_factor_of_zero_is_a_constant_and_the_readings_are_not():
    torch.manual_seed(0)
    start = mlp(20, 50, 50, 10)
    norms = torch.stack([layer.weight.detach().norm() for layer in start[::2]])
    model, inputs = copy.deepcopy(start), torch.randn(200, 20).double()
    for layer in model[::2]:
        layer.weight.data.mul_(3)
    classes = model(inputs).argmax(1)
    assert len(classes.unique()) > 3
    constant = copy.deepcopy(model)
    for layer in constant[::2]:
        layer.weight.data.mul_(0.0)
    assert torch.equal(constant(inputs), constant(inputs)[:1].expand(200, -1))
    for reading in ("norm", "factor"):
        scaled = copy.deepcopy(model)
        scale_(scaled, norms, ratio=0.0, reading=reading)
        assert torch.equal(scaled(inputs).argmax(1), classes)
        if reading == "norm":
            now = torch.stack([layer.weight.detach().norm() for layer in scaled[::2]])
            torch.testing.assert_close(now, norms)


# --- 8 ---------------------------------------------------------------------------------------


def adam_or_adamw(optimizer, decay: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(9, 9, generator=generator).double())
    update = optimizer([weight])
    for _ in range(200):
        noise = torch.randn(9, 9, generator=generator)
        weight.grad = weight.detach() ** 3 - 1 + noise.double()
        update.step()
        weight.data.mul_(1 - decay)
    return weight.detach()


def test_08_with_a_target_of_zero_it_is_adamw_with_these_numbers_and_no_others():
    lr, lam = 1e-3, 1e-2
    mine = adam_or_adamw(lambda p: torch.optim.Adam(p, lr), lam)

    def distance(rate: float, decay: float) -> float:
        other = adam_or_adamw(lambda p: torch.optim.AdamW(p, rate, weight_decay=decay))
        return float((mine - other).abs().max())

    assert distance((1 - lam) * lr, lam / ((1 - lam) * lr)) < 1e-14
    assert distance(lr, lam / lr) > 1e-4


def test_08_the_distance_to_the_initial_norm_contracts_whatever_the_rate():
    layer = nn.Linear(4, 4, bias=False).double()
    swr = SoftWeightRescaling(layer, lam=0.2)
    start = float(layer.weight.detach().norm())
    for factor in (3.0, 0.4):
        layer.weight.data.mul_(factor)
        before = float(layer.weight.detach().norm()) - start
        swr.step()
        assert float(layer.weight.detach().norm()) - start == pytest.approx(0.8 * before)


@pytest.mark.parametrize("alpha", [0.02, 0.002])
def test_08_the_excess_is_proportional_to_the_length_of_updates(alpha):
    layer = nn.Linear(4, 4, bias=False).double()
    swr = SoftWeightRescaling(layer, lam=0.1)
    start = float(layer.weight.detach().norm())
    for _ in range(300):
        layer.weight.data.mul_(1 + alpha / layer.weight.detach().norm())
        swr.step()
    assert float(layer.weight.detach().norm()) - start == pytest.approx(0.9 * alpha / 0.1)


# --- 9 ---------------------------------------------------------------------------------------


def test_09_rescaling_every_k_steps_pulls_alike_only_with_the_compounded_lambda():
    def after(times: int, lam: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = mlp(5, 6, 3)
        swr = SoftWeightRescaling(model, lam=lam)
        for layer in model[::2]:
            layer.weight.data.mul_(2)
        for _ in range(times):
            swr.step()
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    torch.testing.assert_close(after(5, 0.1), after(1, 1 - 0.9**5), rtol=1e-12, atol=1e-14)
    assert float((after(5, 0.1) - after(1, 0.5)).abs().max()) > 1e-3


def test_09_what_the_page_offers_exists_and_what_it_calls_missing_does_not():
    assert SWR(lam=1.0, variant="printed").variant == "printed"
    assert SWR(lam_features=0.0, lam_classifier=0.1).lam is None
    assert SWRReinit(lam=0.1, at_changes=True).at_changes
    assert "optimizer_state" in inspect.signature(train).parameters
    options = {field.name for field in dataclasses.fields(SWR)}
    assert options == {"lam", "lam_features", "lam_classifier", "variant"}, "tell the page"


# --- 10 --------------------------------------------------------------------------------------


def test_10_more_settings_can_flatter_more():
    code = sections()[10][2]
    function = re.search(r"def expected_maximum.*?\n\n", code, re.S)[0]
    space: dict = {}
    exec("from scipy import integrate, stats\n" + function, space)
    draws = np.random.default_rng(0).standard_normal((40_000, 25))
    for size in (5, 25):
        simulated = draws[:, :size].max(1).mean()
        assert space["expected_maximum"](size) == pytest.approx(simulated, abs=0.02)
    # Settings that are not equally good flatter less: the page calls it a bound.
    true = np.linspace(0, 2, 25)
    chosen = (draws + true).argmax(1)
    assert draws[np.arange(len(draws)), chosen].mean() < space["expected_maximum"](25) - 0.1
    assert [len(paper.GRIDS[m]) for m in ("l2", "l2-init", "swr")] == [5, 5, 5]
    assert "split" in inspect.signature(train).parameters


# --- 11 --------------------------------------------------------------------------------------


def test_11_the_order_changes_what_is_seen_and_not_what_is_learnt():
    seen = {}
    for first in (True, False):
        model = small_model("mlp")
        swr = SoftWeightRescaling(model, lam=0.05)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for inputs, labels in oracles.batches("mlp", steps=20):
            if first:
                swr.step()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if not first:
                swr.step()
        seen[first] = model, swr
    (release, swr), (mine, _) = seen[True], seen[False]
    assert oracles.difference(release, mine) > 1e-3
    assert torch.equal(release(inputs).argmax(1), mine(inputs).argmax(1))
    swr.step()
    assert oracles.difference(release, mine) < 1e-12


@pytest.mark.parametrize("method", [L2, L2Init])
def test_11_without_the_half_a_coefficient_counts_twice(method):
    """The gradients that training adds: test_methods."""
    theta, initial = torch.randn(6, requires_grad=True), torch.randn(6)
    away = theta - initial if method is L2Init else theta
    (gradient,) = torch.autograd.grad(0.03 * (away**2).sum(), theta)
    torch.testing.assert_close(gradient, method(lam=2 * 0.03).lam * away.detach())


def test_11_leads_to_a_chapter_that_speaks_of_the_release():
    (link,) = set(re.findall(r"\]\(([\w./]+)\)", sections()[11][1]))
    assert "the release" in (ROOT / "notebooks" / link).read_text()


def test_11_exchanged_lambdas_act_on_the_other_groups():
    pulled = {}
    for way, (features, classifier) in {"paper": (1e-4, 0.1), "release": (0.1, 1e-4)}.items():
        model = small_model("cnn-bn")
        swr = SoftWeightRescaling(model, lam_features=features, lam_classifier=classifier)
        rescaling.rescale_(model, spread_factors(6))
        swr.step()
        table = swr.summary()
        pulled[way] = {name: abs(part["factor"] - 1).max() for name, part in table.groupby("group")}
    assert pulled["paper"]["classifier"] > 50 * pulled["release"]["classifier"]
    assert pulled["release"]["features"] > 50 * pulled["paper"]["features"]
    assert HeadReset(to_initial=True).to_initial and "swr-reinit" in METHODS


# --- 12 --------------------------------------------------------------------------------------


def test_12_the_printed_numbers_separate_swr_and_l2_in_one_column():
    found = []
    for pair in paper.PAIRS:
        ours, rival = (paper.TABLES[1].accuracy[pair][m] for m in ("swr", "l2"))
        error = math.hypot(ours.std, rival.std) / math.sqrt(ours.seeds)
        test = stats.ttest_ind_from_stats(
            *(ours.mean, ours.std, ours.seeds),
            *(rival.mean, rival.std, rival.seeds),
            equal_var=False,
        )
        assert test.statistic == pytest.approx((ours.mean - rival.mean) / error)
        found.append((round(test.statistic, 2), bool(test.pvalue < 0.05)))
    assert [t for t, _ in found] == pytest.approx([2.0, 1.2, 0.75, -1.8, 6.8], abs=0.05)
    assert [significant for _, significant in found] == [False] * 4 + [True]


def test_12_what_is_said_of_the_tables_is_in_the_tables():
    def means(number: int, pair: tuple[str, str]) -> dict[str, float]:
        return {m: 100 * a.mean for m, a in paper.TABLES[number].accuracy[pair].items()}

    best = [max(means(1, pair), key=means(1, pair).get) for pair in paper.PAIRS]
    assert best == ["swr", "swr", "swr", "l2", "swr"]
    vgg = paper.PAIRS[-1]
    first, fifth = means(1, vgg), means(5, vgg)
    assert first["swr"] - max(first["l2"], first["l2-init"], first["vanilla"]) > 4
    assert fifth["swr-reinit"] - max(fifth["l2"], fifth["l2-init"]) > 8
    reinit_wins = [means(5, pair)["swr-reinit"] > means(5, pair)["swr"] for pair in paper.PAIRS]
    assert reinit_wins == [True, True, True, True, False]
    over_l2 = [means(5, pair)["swr-reinit"] > means(5, pair)["l2"] for pair in paper.PAIRS]
    assert over_l2 == [True, False, True, False, True]
    assert sum(means(5, pair)["swr"] < means(5, pair)["l2"] for pair in paper.PAIRS) == 4


# --- 13 --------------------------------------------------------------------------------------


def test_13_algorithm_1_scales_up_what_lies_below_its_initial_norm():
    """By the transcription of what is printed, and by the library."""
    layer = [NamedLayer("a", "linear", "features")]
    values = {"a.weight": np.array([3.0, 4.0]), "a.bias": np.array([1.0])}
    for start, factor in ((10.0, 1.2), (5.0, 1.0), (2.5, 0.9)):
        for variant in ("proportional", "printed"):
            after = algorithm_1(layer, values, {"a": start}, {"features": 0.2}, variant)
            assert after["a.weight"] == pytest.approx(factor * values["a.weight"])
            assert after["a.bias"] == pytest.approx(factor * values["a.bias"])
    model = nn.Linear(3, 2)
    swr = SoftWeightRescaling(model, lam=0.2)
    with torch.no_grad():
        model.weight.mul_(0.5)
    before = copy.deepcopy(model)
    swr.step()
    torch.testing.assert_close(model.weight, 1.2 * before.weight)
    torch.testing.assert_close(model.bias, 1.2 * before.bias)
