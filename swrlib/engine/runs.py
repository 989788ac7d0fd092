"""What is asked for, resolved into runs: whole configurations, each with a name of its own.

A run's hash covers all of its configuration: two different trainings never share one.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from swrlib import records
from swrlib.checks import check_name, check_whole, nearest
from swrlib.datasets import DATASETS, Dataset, load_dataset
from swrlib.engine.scales import make_stream, scale_of
from swrlib.engine.strengths import find_method
from swrlib.measures import Measure
from swrlib.methods import Method, Vanilla
from swrlib.models import MODELS
from swrlib.papers import Paper, find_paper
from swrlib.population import Adam, Optimizer, make_optimizer
from swrlib.streams import Stream

#: Raised by hand when a change alters results by more than the order of rounding (which differs
#: between processors, too): then all runs count as new.
NUMERICS = 1
DTYPES = ("float32", "float64", "bfloat16")
SPLITS = ("all", "selection")
OPTIMIZER_STATES = ("kept", "new")
#: In the records another one has a column, as has another optimizer than Adam.
BATCH_SIZE = 256


@dataclass(frozen=True)
class Run:
    """One whole resolved configuration: everything that its results depend on.

    The paper is no part of it: by its epochs the run is said to be at paper scale or not.
    """

    dataset: str
    split: str
    model: str
    options: tuple[tuple[str, Any], ...]
    stream: Stream
    method: Method
    seed: int
    batch_size: int
    optimizer: Optimizer
    optimizer_state: str
    dtype: str
    tf32: bool
    paper: Paper = field(compare=False, repr=False)

    @property
    def parent(self) -> Run | None:
        """The run whose final state this one starts from, where there is one (Fig. 1)."""
        stream = self.stream.parent
        if stream is None:
            return None
        return replace(self, stream=stream, method=Vanilla())

    @property
    def epochs(self) -> int:
        """Epochs that the run itself trains, its parent's not among them."""
        return self.stream.trained

    def configuration(self) -> dict[str, Any]:
        """Return what the hash covers, as plain values."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "model": {"name": self.model} | dict(self.options),
            "stream": self.stream.configuration(),
            "method": self.method.configuration(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer.configuration(),
            "optimizer_state": self.optimizer_state,
            "dtype": self.dtype,
            "tf32": self.tf32,
            "parent": self.parent.hash if self.parent else None,
            "numerics": NUMERICS,
        }

    @cached_property
    def hash(self) -> str:
        """The run's name."""
        return records.run_hash(self.configuration())

    def columns(self, device: str) -> dict[str, Any]:
        """Return what every row of its records has."""
        method = self.method.configuration()
        known = {"name", "lam", "lam_features", "lam_classifier", "variant"}
        default = type(self.method)
        further = {
            # Options that are not the default mark a run that is not the paper's.
            **{k: v for k, v in method.items() if k not in known and v != getattr(default, k)},
            **{f"model_{k}": v for k, v in self.options},
            **self.stream.options(),
        }
        if self.optimizer != Adam():
            for key, value in self.optimizer.configuration().items():
                further["optimizer" if key == "name" else f"optimizer_{key}"] = value
        if self.batch_size != BATCH_SIZE:
            further["batch_size"] = self.batch_size
        return {
            "run": self.hash,
            "dataset": self.dataset,
            "split": self.split,
            "model": self.model,
            "stream": self.stream.name,
            "method": self.method.name,
            **self.method.columns(),
            "seed": self.seed,
            "optimizer_state": self.optimizer_state,
            "dtype": self.dtype,
            "device": device,
            "scale": scale_of(self.stream, self.paper),
            "epochs": self.epochs,
            "parent": self.parent.hash if self.parent else None,
            **{k: v for k, v in further.items() if v is not None},
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What is asked for: runs of one data set, model and stream, and how they are to be trained.

    Parameters
    ----------
    dataset : str, path or Dataset
        A name of `swrlib.load_dataset`, a folder of class folders, or images in memory.
    model : str
        A name of `swrlib.build_model`.
    stream : str or Stream
        A name (see `swrlib.make_stream`) or what `make_stream` returned.
    methods : iterable of str or Method
        "swr" takes the λ that the paper chose for this data set, model and stream; "swr:1e-3" and
        "swr:1e-4,1e-1" (λ_f, λ_c) name it, as does an object, ``SWR(lam=1e-3)``.
    seeds : iterable of int
    scale : {"quick", "paper"}
        Whose number of epochs.
    epochs : int, optional
        Epochs of each stage instead of the scale's.
    learning_rate : float, optional
        Default: the paper's.
    paper : str, path or Paper
        Whose λ's, epochs, rate, batch size and optimizer hold where nothing else is said: the name
        of a file of `swrlib.papers`, or one's own file.
    split : {"all", "selection"}
        "selection" holds a fixed random tenth of the training images out, and accuracies are on it.
    measure : iterable of str or Measure
        What else to measure (`swrlib.measures`); read it with `swrlib.records.load_measures`.
        "spectrum-start:10" is taken in every tenth stage alone.
    results : path, optional
        Folder of records, read and written. None keeps nothing.
    device : str, optional
        Default: a CUDA device where there is one, else the processor.
    dtype : torch.dtype or str
        float32, float64, or bfloat16: then products are in bfloat16, all else in float32.
    tf32 : bool
        Whether a CUDA device may round the inputs of float32 products to TensorFloat-32.
    batch_size : int, optional
        Default: the paper's.
    optimizer : str or Optimizer, optional
        "adam", "sgd", or "sgd:0.9,1e-4": with momentum and weight decay. The rate is the stream's.
        Default: the paper's.
    optimizer_state : {"kept", "new"}
        Whether the optimizer's state survives a change of data.
    options : mapping, optional
        The model's options (see `swrlib.build_model`).
    root : path, optional
        Where the data are; default: ``$SWR_DATA``.
    checkpoints : path, optional
        Folder of checkpoints: an interrupted job carries on from there. Default: ``.checkpoints``
        in the working directory or, where nothing can be written there, in the folder of records.
    stack : int, optional
        How many runs train at once, at most; the results are the same but for rounding. Default:
        what is fastest. Convolutions on a processor train one after another, the MLP and everything
        small on a GPU many at once, and never more than the memory holds. Runs of a seed share
        their images; seeds lie side by side on a GPU, and with small batches on a processor.
    graphs : bool
        Whether a CUDA device replays a training step that was captured once.
    stop : callable, optional
        stop() → bool is asked after each epoch; where it says True, training stops.
    progress : bool
        Whether to show progress.
    """

    dataset: str | os.PathLike[str] | Dataset
    model: str
    stream: str | Stream
    methods: Iterable[str | Method] = ("vanilla", "swr")
    seeds: Iterable[int] = (0,)
    scale: str = "quick"
    epochs: int | None = None
    learning_rate: float | None = None
    paper: str | os.PathLike[str] | Paper = "swr"
    split: str = "all"
    measure: str | Measure | Iterable[str | Measure] = ()
    results: str | os.PathLike[str] | None = None
    device: str | torch.device | None = None
    dtype: torch.dtype | str = torch.float32
    tf32: bool = False
    batch_size: int | None = None
    optimizer: str | Optimizer | None = None
    optimizer_state: str = "kept"
    options: Mapping[str, Any] | None = None
    root: str | os.PathLike[str] | None = None
    checkpoints: str | os.PathLike[str] | None = None
    stack: int | None = None
    graphs: bool = True
    stop: Callable[[], bool] | None = None
    progress: bool = True

    def runs(self) -> list[Run]:
        """Resolve what is asked for into runs, one per method and seed.

        Raises
        ------
        ValueError
            If a name is unknown or a value senseless.
        """
        self._check()
        paper, name = find_paper(self.paper), self._dataset_name()
        stream = self._stream(paper)
        optimizer = make_optimizer(paper.optimizer if self.optimizer is None else self.optimizer)
        chosen, seeds = self._methods(name, stream, paper), _checked_seeds(self.seeds)
        if not chosen or not seeds:
            raise ValueError("nothing to train: give at least one method and one of the seeds")
        return [
            Run(
                dataset=name,
                split=self.split,
                model=self.model,
                options=tuple(sorted((self.options or {}).items())),
                stream=stream,
                method=method,
                seed=seed,
                batch_size=paper.batch_size if self.batch_size is None else self.batch_size,
                optimizer=optimizer,
                optimizer_state=self.optimizer_state,
                dtype=self._dtype_name(),
                tf32=self.tf32,
                paper=paper,
            )
            for seed in seeds
            for method in chosen
        ]

    def _check(self) -> None:
        check_name("model", self.model, MODELS)
        check_name("split", self.split, SPLITS)
        check_name("optimizer state", self.optimizer_state, OPTIMIZER_STATES)
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size)
        if self._dtype_name() not in DTYPES:
            raise ValueError(f"dtype is {self.dtype}: {nearest(self._dtype_name(), DTYPES)}")

    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _stream(self, paper: Paper) -> Stream:
        options: dict[str, Any] = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        if isinstance(self.stream, str):
            return make_stream(self.stream, scale=self.scale, paper=paper, **options)
        for name, value in options.items():
            if value is not None:
                raise ValueError(f"this stream has its {name}: give it to make_stream instead")
        return self.stream

    def _dataset_name(self) -> str:
        """Return a known name as it is, so that looking for missing runs needs no data."""
        if isinstance(self.dataset, str) and self.dataset in DATASETS:
            return self.dataset
        return load_dataset(self.dataset, root=self.root).fingerprint

    def _methods(self, dataset: str, stream: Stream, paper: Paper) -> list[Method]:
        methods = [self.methods] if isinstance(self.methods, str | Method) else self.methods
        path = os.fspath(self.dataset) if isinstance(self.dataset, str | os.PathLike) else None
        place = (dataset, self.model, stream.name, self.results)
        return [find_method(method, *place, paper=paper, path=path) for method in methods]


def resolve(**asked: Any) -> list[Run]:
    """Resolve what is asked for into runs; keywords as for `Request`."""
    return Request(**asked).runs()


def stream_name(stream: str | Stream) -> str:
    """Return a stream's name."""
    return stream if isinstance(stream, str) else stream.name


def _checked_seeds(seeds: int | Iterable[int]) -> list[int]:
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    for seed in seeds:
        integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
        if not integer or not 0 <= seed < 2**31:
            raise ValueError(f"the seed {seed!r} must be a whole number from 0 to 2147483647")
    return [int(seed) for seed in seeds]
