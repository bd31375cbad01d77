"""k-means and spectral clustering of a few thousand short vectors, in NumPy."""

from __future__ import annotations

import numpy as np

# An eigendecomposition is cubic: more rows than this are assigned to the clusters of a sample.
_SPECTRAL_MAX = 1500


def kmeans(points: np.ndarray, k: int, restarts: int = 8, seed: int = 51) -> np.ndarray:
    """Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii, SODA 2007).

    Args:
        points: (N, D)
        k: clusters, at most N
        restarts (8): the one with the least squared distance is returned
        seed (51): of the starts

    Returns:
        (N,) cluster indices
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"k must lie between 1 and the {len(points)} points, got {k}")
    rng = np.random.default_rng(seed)
    best, labels = np.inf, np.zeros(len(points), int)
    for _ in range(restarts):
        centres = _start(points, k, rng)
        for _ in range(100):
            distance = squared_distances(points, centres)
            found = distance.argmin(1)
            sums = np.zeros_like(centres)
            np.add.at(sums, found, points)
            counts = np.bincount(found, minlength=k)[:, None]
            moved = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
            if np.allclose(moved, centres):
                break
            centres = moved
        cost = float(distance.min(1).sum())
        if cost < best - 1e-12:
            best, labels = cost, found
    return labels


def _start(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    centres = [points[rng.integers(len(points))]]
    for _ in range(k - 1):
        distance = squared_distances(points, np.stack(centres)).min(1)
        total = distance.sum()
        share = distance / total if total > 0 else None
        centres.append(points[rng.choice(len(points), p=share)])
    return np.stack(centres).astype(float)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns (N, M) squared Euclidean distances."""
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(0)


def spectral(points: np.ndarray, most: int = 8, neighbours: int = 10, seed: int = 51) -> np.ndarray:
    """Spectral clustering of a nearest-neighbour graph; the eigengap says how many clusters.

    Ng, Jordan and Weiss, NeurIPS 2001; von Luxburg, A Tutorial on Spectral Clustering, 2007.

    Args:
        points: (N, D)
        most (8): clusters
        neighbours (10): of each point; fewer where there are few points
        seed (51): of k-means, and of the sample that is decomposed where N is large

    Returns:
        (N,) cluster indices
    """
    if len(points) > _SPECTRAL_MAX:
        chosen = np.random.default_rng(seed).choice(len(points), _SPECTRAL_MAX, replace=False)
        labels = spectral(points[chosen], most, neighbours, seed)
        centres = np.stack([points[chosen][labels == c].mean(0) for c in range(labels.max() + 1)])
        return squared_distances(points, centres).argmin(1)
    near = min(neighbours, len(points) - 1)
    if near < 1:
        return np.zeros(len(points), int)
    distance = squared_distances(points, points)
    np.fill_diagonal(distance, np.inf)
    rank = np.argsort(distance, 1)[:, :near]
    graph = np.zeros(distance.shape)
    np.put_along_axis(graph, rank, 1.0, 1)
    graph = (graph + graph.T) / 2
    scale = 1 / np.sqrt(graph.sum(1))
    values, vectors = np.linalg.eigh(np.eye(len(points)) - scale[:, None] * graph * scale)
    limit = min(most, len(points) - 1)
    k = int(np.argmax(np.diff(values[: limit + 1]))) + 1
    rows = vectors[:, :k]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return compact(kmeans(rows / np.maximum(length, 1e-12), k, seed=seed))


def best_kmeans(points: np.ndarray, most: int = 8, seed: int = 51) -> np.ndarray:
    """k-means with the number of clusters (2 to ``most``) whose silhouette is largest."""
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(seed)
    few = len(points) <= _SPECTRAL_MAX
    judged = np.arange(len(points)) if few else rng.choice(len(points), _SPECTRAL_MAX, False)
    best, labels = -np.inf, np.zeros(len(points), int)
    for k in range(2, min(most, len(points) - 1) + 1):
        found = compact(kmeans(points, k, seed=seed))
        here = compact(found[judged])
        if here.max() == 0:
            continue
        score = silhouette_score(points[judged], here)
        if score > best:
            best, labels = score, found
    return labels


def compact(labels: np.ndarray) -> np.ndarray:
    """Renumbers clusters from 0 without gaps."""
    return np.unique(labels, return_inverse=True)[1]
