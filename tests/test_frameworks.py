"""SWR in training frameworks, as *Quickstart* writes it: the weights of a loop written by hand."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import torch
from oracles import Oracle, _table, difference
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from swrlib import SoftWeightRescaling

QUICKSTART = Path(__file__).resolve().parent.parent / "notebooks/quickstart.ipynb"
STEPS = 20
LAM = 0.1
TABLE = _table("""
    0 linear features
    2 linear features
    4 linear classifier
""")


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))


def data(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, torch.randint(0, 3, (count,), generator=generator))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def recipe(words: str) -> type:
    """Return the class that the block of *Quickstart* with these words defines."""
    cells = nbformat.read(QUICKSTART, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.S) if words in c)
    names: dict = {"SoftWeightRescaling": SoftWeightRescaling, "torch": torch}
    exec(code, names)
    return names["KeepNorms"]


def by_hand(batch: int, accumulated: int = 1) -> nn.Module:
    """Train with torch alone, and with Algorithm 1 written down once more."""
    model = mlp()
    optimizer, oracle = adam(model), Oracle(model, TABLE, LAM)
    loader = DataLoader(data(STEPS * batch * accumulated), batch)
    for number, (x, y) in enumerate(loader, start=1):
        (cross_entropy(model(x), y) / accumulated).backward()
        if number % accumulated == 0:
            optimizer.step()
            optimizer.zero_grad()
            oracle.step()
    return model


# --- accelerate ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["attach", "attach the prepared one", "step"])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_accelerate(way, accumulated):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    model = mlp()
    optimizer = adam(model)
    loader = DataLoader(data(STEPS * 8 * accumulated), 8)
    prepared, wrapped, loader = accelerator.prepare(model, optimizer, loader)
    swr = SoftWeightRescaling(prepared, LAM)
    if way != "step":
        swr.attach(optimizer if way == "attach" else wrapped)
    for x, y in loader:
        with accelerator.accumulate(prepared):
            accelerator.backward(cross_entropy(prepared(x), y))
            wrapped.step()
            if way == "step":
                swr.step()
            wrapped.zero_grad()
    assert difference(model, by_hand(8, accumulated)) < 1e-6
    accelerator.free_memory()


# --- Lightning -------------------------------------------------------------------------------


def lightning_module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = mlp()

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, _):
            return cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return adam(self)

    return Module()


def trainer(lightning, folder, **options):
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            "max_epochs": 1,
        }
        | options
    )


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of few workers and the like
@pytest.mark.parametrize("accumulated", [1, 4])
def test_lightning_with_a_callback(tmp_path, accumulated):
    lightning = pytest.importorskip("lightning")
    module = lightning_module(lightning)
    fit = trainer(
        lightning,
        tmp_path,
        callbacks=[recipe("lightning.Callback")(lam=LAM)],
        accumulate_grad_batches=accumulated,
    )
    fit.fit(module, DataLoader(data(STEPS * 8 * accumulated), 8))
    assert difference(module.network, by_hand(8, accumulated)) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_lightning_stopped_and_resumed_returns_to_the_first_norms(tmp_path):
    lightning = pytest.importorskip("lightning")
    loader = DataLoader(data(STEPS * 8), 8)
    whole, first, again = (lightning_module(lightning) for _ in range(3))
    callbacks = [recipe("lightning.Callback")(lam=LAM) for _ in range(3)]
    trainer(lightning, tmp_path, max_epochs=3, callbacks=callbacks[:1]).fit(whole, loader)

    stopped = trainer(lightning, tmp_path, callbacks=callbacks[1:2])
    stopped.fit(first, loader)
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed = trainer(lightning, tmp_path, max_epochs=3, callbacks=callbacks[2:])
    resumed.fit(again, loader, ckpt_path=tmp_path / "stopped.ckpt")
    assert difference(again.network, whole.network) == 0 < difference(first.network, whole.network)
    assert callbacks[0].swr.state_dict() == callbacks[2].swr.state_dict()

    # Fitted on with the same callback, without a checkpoint: one object acts, on the first norms.
    trainer(lightning, tmp_path, callbacks=callbacks[1:2]).fit(first, loader)
    assert callbacks[1].swr.state_dict() == callbacks[0].swr.state_dict()


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_its_own_kind_of_optimizer_and_steps_by_hand(tmp_path):
    lightning = pytest.importorskip("lightning")
    module = lightning_module(lightning)
    module.automatic_optimization = False

    def training_step(batch, batch_idx):
        optimizer = module.optimizers()
        if module.global_step == 0:
            SoftWeightRescaling(module, LAM).attach(optimizer)
        optimizer.zero_grad()
        module.manual_backward(cross_entropy(module(batch[0]), batch[1]))
        optimizer.step()

    module.training_step = training_step
    trainer(lightning, tmp_path).fit(module, DataLoader(data(STEPS * 8), 8))
    assert difference(module.network, by_hand(8)) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_fabric_prepared_model_and_optimizer():
    lightning = pytest.importorskip("lightning")
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model = mlp()
    prepared, optimizer = fabric.setup(model, adam(model))
    swr = SoftWeightRescaling(prepared, LAM)
    swr.attach(optimizer)
    assert [layer.name for layer in swr.layers] == ["0", "2", "4"]
    for x, y in DataLoader(data(STEPS * 8), 8):
        optimizer.zero_grad()
        fabric.backward(cross_entropy(prepared(x), y))
        optimizer.step()
    assert difference(model, by_hand(8)) < 1e-6


# --- Hugging Face ----------------------------------------------------------------------------


class Classifier(nn.Module):
    """The form that a `Trainer` wants: it takes labels and returns a loss."""

    def __init__(self):
        super().__init__()
        self.network = mlp()

    def forward(self, inputs, labels=None):
        logits = self.network(inputs)
        loss = None if labels is None else cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def hugging_face(folder, model, callback, accumulated=1, **options):
    transformers = pytest.importorskip("transformers")
    rows = [{"inputs": x, "labels": y} for x, y in data(STEPS * 8 * accumulated)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulated,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **{"num_train_epochs": 1, "save_strategy": "no"} | options,
    )
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        optimizers=(optimizer, schedule),
        callbacks=[callback],
    )


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_hugging_face_trainer_with_a_callback(tmp_path, accumulated):
    pytest.importorskip("transformers")
    model = Classifier()
    example = {"inputs": torch.zeros(1, 6)}
    callback = recipe("TrainerCallback")(lam=LAM, example=example)
    hugging_face(tmp_path, model, callback, accumulated).train()
    assert difference(model.network, by_hand(8, accumulated)) < 1e-6


@pytest.mark.parametrize("restoring", [False, True])
def test_the_hugging_face_trainer_stopped_and_resumed_returns_to_the_first_norms(
    tmp_path, restoring
):
    pytest.importorskip("transformers")
    models = [Classifier() for _ in range(3)]
    callbacks = [
        recipe("TrainerCallback")(lam=LAM, example={"inputs": torch.zeros(1, 6)}) for _ in models
    ]
    hugging_face(tmp_path / "whole", models[0], callbacks[0], num_train_epochs=3).train()

    folder, saving = tmp_path / "stopped", {"save_strategy": "steps", "save_steps": 15}
    hugging_face(folder, models[1], callbacks[1], max_steps=15, **saving).train()
    saving |= {"restore_callback_states_from_checkpoint": restoring}
    resumed = hugging_face(folder, models[2], callbacks[2], num_train_epochs=3, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert difference(models[2], models[0]) == 0 < difference(models[1], models[0])
    assert callbacks[0].swr.state_dict() == callbacks[2].swr.state_dict()

    resumed.train()  # once more, from here: nothing of before is attached
