"""The order of models in which similar ones are beside each other, and the tree that it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """Models merged by average linkage, to be drawn beside their rows.

    Attributes
    ----------
    leaves : sequence of int
        The models from top to bottom.
    layers : sequence of int
        Over which distances were averaged.
    places, heights : (n_models - 1, 4)
        The bracket of each merger: rows counted from the top, and distances.
    """

    leaves: Sequence[int]
    layers: Sequence[int]
    places: npt.NDArray[np.float64]
    heights: npt.NDArray[np.float64]


def cluster(matrices: Mapping[int, pd.DataFrame]) -> Tree | None:
    """Cluster models by average linkage on 1 - similarity, leaves in optimal order (Bar-Joseph et al. 2001).

    Parameters
    ----------
    matrices : mapping of int to pandas.DataFrame
        For each layer the square of similarities, with 1 on its diagonal. The distance is the mean over those layers at
        which every two models have a value, so that all distances are over the same layers.

    Returns
    -------
    Tree or None
        None where no layer is whole. Of the two ways to hold a tree, the one that begins nearer to the first model.
    """
    from scipy.cluster import hierarchy  # over half a second, and only this needs it

    whole = {layer: matrix.to_numpy() for layer, matrix in matrices.items() if matrix.notna().to_numpy().all()}
    if not whole:
        return None
    distances = np.maximum(1 - np.mean(list(whole.values()), axis=0), 0)  # rounding takes a similarity beyond 1
    links = hierarchy.linkage(distances[np.triu_indices(len(distances), 1)], "average", optimal_ordering=True)
    drawn = hierarchy.dendrogram(links, no_plot=True)
    leaves, places = drawn["leaves"], (np.array(drawn["icoord"]) - 5) / 10
    if leaves[0] > leaves[-1]:
        leaves, places = leaves[::-1], len(leaves) - 1 - places
    return Tree(leaves=leaves, layers=list(whole), places=places, heights=np.array(drawn["dcoord"]))
