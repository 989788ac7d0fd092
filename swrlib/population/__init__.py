"""The runs that train at once: weights, gradients, features, moments, all visible to methods."""

from swrlib.population.members import Members
from swrlib.population.optimizers import OPTIMIZERS, SGD, Adam, Optimizer, make_optimizer
from swrlib.population.population import Batch, Blueprint, Population
