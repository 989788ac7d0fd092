"""Soft Weight Rescaling in a user's own training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from swrlib import rescaling
from swrlib.network.layers import Layer, trace
from swrlib.network.order import Order
from swrlib.swr import summary
from swrlib.swr.choice import Choice, Lam, Selection, Strengths
from swrlib.swr.rescaler import Rescaler
from swrlib.swr.structure import Structure


class SoftWeightRescaling:
    """Soft Weight Rescaling for any model and any training loop (Algorithm 1).

    Parameters
    ----------
    model : torch.nn.Module
        Its norms at this moment are the n_l. It may be moved, cast or compiled afterwards.
    lam : float or mapping of str to float
        λ in [0, 1] for all layers; or by patterns of their names, or of the modules around them, of
        which the first that fits counts (``{"features.*": 1e-4, "*": 1e-1}``), …
    lam_features, lam_classifier : float
        … or one λ each for the feature extractor and the classifier (Section 3.3).
    classifier : sequence of str, optional
        Names of the modules that form the classifier. By default, the last fully connected layer
        on the way to the output; after the last convolution, all of them, where they form a chain.
    exclude : optional
        Layers that are never written: names or patterns of them, classes, or a function of name and
        module that returns bool; one or several. With λ = 0 only the weight stays as it is. What is
        left alone anyway may be named, too: then no warning speaks of it.
    include : optional
        Weights outside of all layers (embeddings, attention, recurrent ones), chosen alike: each is
        rescaled to its own norm. Theorem 1 does not cover them, and `summary` says so.
    variant : {"proportional", "printed"}
        How biases are scaled: so that the function keeps its shape, or as Algorithm 1 is printed.
    running_statistics : bool
        Scale batch normalization's running statistics along, so that evaluation mode follows at
        once; otherwise they catch up in training, as in the paper.
    layers : optional
        For a model that cannot be traced, the names of its layers: a list in the order of the
        forward pass, each feeding the next; a list of such chains, each of which begins at the
        input; or a mapping from each layer to the names of those that feed it.
    normalizations : sequence of type, optional
        Classes of modules that normalize their input, besides torch's.
    example : optional
        As for `trace_layers`: an input, a tuple of arguments, a mapping of keyword arguments.

    Raises
    ------
    TypeError, ValueError
        If λ is missing, given twice or outside [0, 1]; if the model has no trainable weights,
        shares weights between layers or cannot be traced; if a norm is not a finite number; if a
        name or the variant is unknown, or a choice or a pattern fits nothing.

    Warns
    -----
    UserWarning
        Once, if parameters belong to no known layer and are not excluded, if weights are in half
        precision, where soft factors round to 1, if a layer's norm is zero, now or at the start
        (its factor is 1), if a factor is limited, and if λ_f or λ_c applies to nothing.

    Notes
    -----
    Frozen tensors (``requires_grad=False``) are never written. `step` waits for no device and
    makes a small, fixed number of calls there, whatever the depth. No factor is larger than 10,
    which none is on the paper's models: without that limit a norm that has all but vanished would
    blow up every bias behind its layer. Weights that an optimizer keeps for itself (averages, slow
    weights) are not rescaled, which a warning says where its state shows them.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> handle = SoftWeightRescaling(model, lam=1e-3).attach(optimizer)
    """

    def __init__(
        self,
        model: nn.Module,
        lam: float | Mapping[str, float] | None = None,
        *,
        lam_features: float | None = None,
        lam_classifier: float | None = None,
        classifier: Sequence[str] | None = None,
        exclude: Choice | Iterable[Choice] | None = None,
        include: Choice | Iterable[Choice] | None = None,
        variant: rescaling.Variant = "proportional",
        running_statistics: bool = False,
        layers: Order | None = None,
        normalizations: Sequence[type[nn.Module]] = (),
        example: Any = None,
    ) -> None:
        network = trace(
            model, example, classifier=classifier, layers=layers, normalizations=normalizations
        )
        selection = Selection(model, network, include, exclude)
        strengths = Strengths(selection.scaled, lam, lam_features, lam_classifier)
        # Without the graph, which a copy or a pickle of this object would take along.
        steps = [replace(step, node=None, module=None) for step in network.steps]
        network = replace(network, steps=steps)
        self._rescaler = Rescaler(
            network, Structure(model), selection, strengths, variant, running_statistics
        )

    @property
    def layers(self) -> list[Layer]:
        """The layers that were found, in the order of the forward pass."""
        return [row for row in self._rescaler.selection.rows if isinstance(row, Layer)]

    @property
    def variant(self) -> rescaling.Variant:
        """How biases are scaled; fixed at construction."""
        return self._rescaler.variant

    @property
    def running_statistics(self) -> bool:
        """Whether batch normalization's running statistics are scaled along."""
        return self._rescaler.running_statistics

    @running_statistics.setter
    def running_statistics(self, value: bool) -> None:
        self._rescaler.running_statistics = value
        self._rescaler.begin_anew()

    @property
    def lam(self) -> float | tuple[float, float] | dict[str, float]:
        """λ; the pair (λ_f, λ_c) where they differ; λ by pattern. One number sets all."""
        return self._rescaler.strengths.lam

    @lam.setter
    def lam(self, value: Lam) -> None:
        self._rescaler.strengths.lam = value

    @property
    def lam_features(self) -> float:
        """λ_f, of the feature extractor."""
        return self._rescaler.strengths.group("features")

    @lam_features.setter
    def lam_features(self, value: float) -> None:
        self._rescaler.strengths.set(features=value)

    @property
    def lam_classifier(self) -> float:
        """λ_c, of the classifier."""
        return self._rescaler.strengths.group("classifier")

    @lam_classifier.setter
    def lam_classifier(self, value: float) -> None:
        self._rescaler.strengths.set(classifier=value)

    @torch.no_grad()
    def step(self) -> None:
        """Rescale once; call it after each ``optimizer.step()``, or `attach` it instead.

        Where an optimizer has changed the weights between earlier calls and has not since the last
        one, nothing is done: a wrapped optimizer that accumulates gradients takes no step, nor does
        one that ``torch.amp.GradScaler`` makes skip it (a fused one has to be attached for that).

        Raises
        ------
        ValueError
            If it is attached, or another object rescales these weights; if the model has changed:
            a module was replaced, a weight is computed (pruned, parametrized), of another shape
            (sharded), or another layer's Parameter. Nothing is changed then.

        Warns
        -----
        UserWarning
            Once, where optimizers take steps and none holds these weights but copies, say.
        """
        self._rescaler.step_by_hand()

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Rescale the whole model after every step that the optimizer takes from now on.

        A step that mixed-precision training skips counts as none. ``handle.remove()`` detaches. Of
        several optimizers of one model attach the one that steps last; of wrapped ones (by
        accelerate, Lightning, a sharpness-aware optimizer) either. A copy of the optimizer has no
        hooks: attach it again.

        Raises
        ------
        TypeError, ValueError
            If it is no optimizer, or runs no hooks; if it holds none of the parameters that are
            rescaled, or is attached already; if another object rescales these weights; if a module
            of the model was replaced.

        Warns
        -----
        UserWarning
            If another optimizer is attached: each one's steps would rescale the model. If the
            optimizer decays the same weights, holds parameters that are not the model's, or keeps
            weights of its own. Once, if ten steps pass without a rescaling.
        """
        return self._rescaler.attach(optimizer)

    @torch.no_grad()
    def retarget(self) -> None:
        """Take the present norms as the new n_l (SWR + re-init, Appendix E).

        Raises
        ------
        ValueError
            If there is no weight, or a norm is not a finite number.
        """
        self._rescaler.retarget()

    def norms(self) -> Tensor:
        """Return the present norms in the order of the rows of `summary`, [rows].

        nan where there is no weight. Nothing waits for the device: for a log of each step, say.
        """
        return summary.norms(self._rescaler.selection.rows)

    def factors(self) -> Tensor:
        """Return the factors c_l of the last step, like `norms`; nan before the first."""
        return self._rescaler.factors()

    def summary(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer.

        Columns: ``kind``, ``group``, ``lam`` (λ; nan where the layer is excluded),
        ``initial_norm`` (n_l), ``norm``, ``factor`` (the last c_l) and ``proportional``: "yes", or
        where and why a rescaling stops to keep the function's shape, of what follows the last layer
        too. The index is the layer's name.
        """
        core = self._rescaler
        network = replace(core.network, patched=True) if core.structure.patched() else core.network
        ends = summary.where_proportionality_ends(
            network, core.variant, core.running_statistics, core.selection.excluded
        )
        initial, rows = core.targets.by_layer(), core.selection.rows
        return summary.table(rows, core.strengths, initial, self.norms(), self.factors(), ends)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: n_l and shape by layer, λ and the variant."""
        options = {"variant": self.variant, "running_statistics": self.running_statistics}
        return self._rescaler.targets.state() | self._rescaler.strengths.state() | options

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is another model's or another variant's; nothing is changed then.
        """
        missing = set(self.state_dict()) - set(state)
        missing -= {"lam", "lam_features", "lam_classifier"}  # `loaded` has a better word for them
        if missing:
            raise ValueError(f"the state dict lacks {', '.join(sorted(missing))}")
        for option in ("variant", "running_statistics"):
            if state[option] != getattr(self, option):
                made = f"the state dict was made with {option}={state[option]!r}"
                raise ValueError(f"{made}: construct SoftWeightRescaling with it too")
        strengths = self._rescaler.strengths.loaded(state)
        self._rescaler.targets.load(state)
        self._rescaler.strengths = strengths
        self._rescaler.begin_anew()
