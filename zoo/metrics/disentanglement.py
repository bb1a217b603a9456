"""Whether each latent dimension stands for one known factor of variation, and each factor for one dimension.

Six published measures, each first as a function of codes `[N, D]` and factors `[N, F]` (D and F at least 2; factors
that do not vary are left out), then as a metric of a trained model. A point's code is its posterior mean, never a
sample. As in the literature the points are drawn from all images there are, those of training included.

scikit-learn, which takes seconds to import, is imported by the measure that needs it.
"""

from __future__ import annotations

import numpy as np
import torch

from zoo.data.sampler import permutation
from zoo.errors import DoesNotApply, UserError
from zoo.metrics.core import Score, Subject, register_metric

POINTS = 10_000
BINS = 20
TREES = 10  # of the forest that DCI fits to each factor
VOTES = (10_000, 5_000)  # to train and to test the classifiers of FactorVAE and beta-VAE
VOTE_SIZE = 64  # points, or pairs, behind one vote
COLLAPSED_STD = 0.05  # dimensions that vary less have no vote in the FactorVAE score


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    """Mutual information gap: mean over factors of (I_1st - I_2nd) / H(factor). Chen et al. 2018, arXiv:1802.04942.

    I_1st and I_2nd are the two greatest mutual informations of the factor with a dimension. At most 1; random codes: 0.

    Args:
        codes: `[N, D]`; each dimension is cut into bins of equal width.
        factors: int `[N, F]`.
        bins: How many.
    """
    from sklearn.metrics import mutual_info_score

    factors = _varying(factors)
    information = np.sort(_mutual_information(codes, factors, bins), axis=0)  # [D, F]
    entropies = np.array([mutual_info_score(factor, factor) for factor in factors.T])
    return float(np.mean((information[-1] - information[-2]) / entropies))


def modularity(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    """Mean over dimensions of 1 - sum_{f != f*} I_f^2 / (I_f*^2 (F - 1)). Ridgeway & Mozer 2018, arXiv:1802.05312.

    f* is the factor that a dimension informs of most. At most 1. A dimension that informs of all factors equally counts
    0, one that informs of none (exactly) too; noise counts far more, so compare with the codes' own chance level.

    Args:
        codes: `[N, D]`; each dimension is cut into bins of equal width.
        factors: int `[N, F]`.
        bins: How many.
    """
    squares = _mutual_information(codes, _varying(factors), bins) ** 2  # [D, F]
    greatest = squares.max(axis=1)
    others = squares.sum(axis=1) - greatest
    spread = np.divide(others, greatest * (squares.shape[1] - 1), out=np.ones_like(others), where=greatest > 0)
    return float(np.mean(1 - spread))


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Disentanglement, completeness and informativeness. Eastwood & Williams 2018, openreview.net/forum?id=By-7dz-AZ.

    A random forest of ten trees, each node free to choose among all dimensions, predicts each factor's value as a
    class from four fifths of the points; R[d, f] is the importance of dimension d for factor f. Disentanglement is 1
    minus the entropy of a dimension's importances over factors, weighted by its share of all; completeness 1 minus the
    entropy of a factor's importances over dimensions, averaged; informativeness the accuracy on the last fifth (the
    paper reports an error). All at most 1; random codes: 0, 0, and the mean share of each factor's commonest value.

    Args:
        codes: `[N, D]`.
        factors: int `[N, F]`.
        seed: Of the split and the forests.
    """
    from scipy.stats import entropy
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    factors = _varying(factors)
    train_codes, test_codes, train_factors, test_factors = train_test_split(
        codes, factors, test_size=0.2, random_state=seed
    )
    importances, accuracies = [], []
    for train_values, test_values in zip(train_factors.T, test_factors.T, strict=True):
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed).fit(train_codes, train_values)
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(test_codes, test_values))
    shares = np.stack(importances, axis=1) + 1e-12  # [D, F]; a dimension without importance has an entropy, too
    disentangled = 1 - entropy(shares, axis=1, base=shares.shape[1])  # [D]
    complete = 1 - entropy(shares, axis=0, base=shares.shape[0])  # [F]
    weights = shares.sum(axis=1) / shares.sum()
    return float(weights @ disentangled), float(complete.mean()), float(np.mean(accuracies))


def sap(codes: np.ndarray, factors: np.ndarray) -> float:
    """Separated attribute predictability: mean over factors of S_1st - S_2nd. Kumar et al. 2018, arXiv:1711.00848.

    S is how well thresholds on one dimension alone tell the factor's V values apart: balanced accuracy of a decision
    tree of V leaves, on the points it is fitted to. A dimension that knows nothing has 1/V, so at most the mean of
    1 - 1/V (see `sap_maximum`); random codes: near 0.

    Args:
        codes: `[N, D]`.
        factors: int `[N, F]`.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    gaps = []
    for factor in _varying(factors).T:
        tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(factor)), class_weight="balanced", random_state=0)
        scores = sorted(
            balanced_accuracy_score(factor, tree.fit(code[:, None], factor).predict(code[:, None])) for code in codes.T
        )
        gaps.append(scores[-1] - scores[-2])
    return float(np.mean(gaps))


def sap_maximum(factors: np.ndarray) -> float:
    """Return what `sap` gives to perfect codes of independent factors: the mean of 1 - 1/V."""
    return float(np.mean([1 - 1 / len(np.unique(factor)) for factor in _varying(factors).T]))


def factor_vae_score(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> float:
    """Accuracy of a majority vote that names a factor by the dimension that varies least while the factor is fixed.

    Kim & Mnih 2018, arXiv:1802.05983, section 4. Variances are taken over 64 points and divided by those over all
    points; dimensions of a standard deviation below 0.05 are left out, and with none left the score is 0. At most 1;
    random codes: 1/F.

    Args:
        codes: `[N, D]`.
        factors: int `[N, F]`.
        seed: Of the points behind each vote.
    """
    factors, rng = _varying(factors), np.random.default_rng(seed)
    codes = codes[:, codes.std(axis=0) >= COLLAPSED_STD]
    if not codes.shape[1]:
        return 0.0
    codes = codes / codes.std(axis=0)

    def votes(total: int) -> np.ndarray:
        counts = []
        for factor in factors.T:
            first = rng.integers(len(codes), size=(total // factors.shape[1], 1))
            rows = _alike(factor, np.repeat(first, VOTE_SIZE, axis=1), rng)
            quietest = codes[rows].var(axis=1).argmin(axis=1)
            counts.append(np.bincount(quietest, minlength=codes.shape[1]))
        return np.stack(counts)  # [F, D]

    train, test = (votes(total) for total in VOTES)
    return float(test[train.argmax(axis=0), np.arange(codes.shape[1])].sum() / test.sum())


def beta_vae_score(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> float:
    """Accuracy of a linear classifier that names the factor which pairs of points share, from how far they differ.

    Higgins et al. 2017, openreview.net/forum?id=Sy2fzU9gl, section 3: it sees |code_1 - code_2| averaged over 64 pairs
    which agree in one factor and are free in the others. At most 1; random codes: 1/F.

    Args:
        codes: `[N, D]`.
        factors: int `[N, F]`.
        seed: Of the pairs.
    """
    from sklearn.linear_model import LogisticRegression

    factors, rng = _varying(factors), np.random.default_rng(seed)

    def differences(total: int) -> tuple[np.ndarray, np.ndarray]:
        means, names = [], []
        for name, factor in enumerate(factors.T):
            first = rng.integers(len(codes), size=(total // factors.shape[1], VOTE_SIZE))
            second = _alike(factor, first, rng)
            means.append(np.abs(codes[first] - codes[second]).mean(axis=1))
            names += [name] * len(first)
        return np.concatenate(means), np.array(names)

    train, test = (differences(total) for total in VOTES)
    return float(LogisticRegression(max_iter=1000).fit(*train).score(*test))


def _varying(factors: np.ndarray) -> np.ndarray:
    return factors[:, (factors != factors[:1]).any(axis=0)]


def _mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int) -> np.ndarray:
    """I(binned dimension; factor) in nats, `[D, F]`."""
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(code, np.histogram_bin_edges(code, bins)[1:-1]) for code in codes.T]
    return np.array([[mutual_info_score(factor, code) for factor in factors.T] for code in binned])


def _alike(factor: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw for each row another, or itself, in which the factor has the same value; any shape."""
    _, value, counts = np.unique(factor, return_inverse=True, return_counts=True)
    by_value = np.argsort(value, kind="stable")
    starts = np.cumsum(counts) - counts
    return by_value[starts[value[rows]] + rng.integers(counts[value[rows]])]


@register_metric("mig", "mutual information gap, for data with known factors")
def mig_metric(subject: Subject) -> dict[str, Score]:
    """Row mig."""
    codes, factors = _points(subject)
    return {"mig": _score(mig(codes, factors), f"{BINS} bins of equal width", codes)}


@register_metric("modularity", "modularity and its chance level, for data with known factors")
def modularity_metric(subject: Subject) -> dict[str, Score]:
    """Rows modularity and modularity_chance: that of the same codes given to points in random order."""
    codes, factors = _points(subject)
    chance = modularity(codes[permutation(len(codes), 1).numpy()], factors)
    protocol = f"{BINS} bins of equal width"
    return {
        "modularity": _score(modularity(codes, factors), f"{protocol}; see its chance level", codes),
        "modularity_chance": _score(chance, f"{protocol}; the codes shuffled over the points", codes, None),
    }


@register_metric("dci", "disentanglement, completeness, informativeness, for data with known factors")
def dci_metric(subject: Subject) -> dict[str, Score]:
    """Rows dci_disentanglement, dci_completeness and dci_informativeness."""
    codes, factors = _points(subject)
    protocol = f"random forests of {TREES} trees, fitted to 80% of the points"
    names = ("dci_disentanglement", "dci_completeness", "dci_informativeness")
    details = ("Gini importances", "Gini importances", "accuracy on the other 20%")
    values = dci(codes, factors)
    return {n: _score(v, f"{protocol}; {d}", codes) for n, v, d in zip(names, values, details, strict=True)}


@register_metric("sap", "separated attribute predictability, for data with known factors")
def sap_metric(subject: Subject) -> dict[str, Score]:
    """Row sap."""
    codes, factors = _points(subject)
    protocol = (
        "balanced accuracy of thresholds on one dimension, as many as tell a factor's values apart; "
        f"perfect codes have {sap_maximum(factors):.3f}"
    )
    return {"sap": _score(sap(codes, factors), protocol, codes)}


@register_metric("factor_vae_score", "the FactorVAE paper's score, for data with known factors")
def factor_vae_metric(subject: Subject) -> dict[str, Score]:
    """Row factor_vae_score."""
    codes, factors = _points(subject)
    protocol = (
        f"{VOTES[0]} votes to train and {VOTES[1]} to test, {VOTE_SIZE} points each; "
        f"dimensions of a standard deviation below {COLLAPSED_STD} left out"
    )
    return {"factor_vae_score": _score(factor_vae_score(codes, factors), protocol, codes)}


@register_metric("beta_vae_score", "the beta-VAE paper's score, for data with known factors")
def beta_vae_metric(subject: Subject) -> dict[str, Score]:
    """Row beta_vae_score."""
    codes, factors = _points(subject)
    protocol = f"logistic regression, {VOTES[0]} votes to train and {VOTES[1]} to test, {VOTE_SIZE} pairs each"
    return {"beta_vae_score": _score(beta_vae_score(codes, factors), protocol, codes)}


def _score(value: float, protocol: str, codes: np.ndarray, higher_is_better: bool | None = True) -> Score:
    points = "posterior means of points drawn from all images, training images included"
    return Score(value, "", higher_is_better, f"{points}; {protocol}", len(codes), split="train+val+test")


@torch.no_grad()
def _points(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes `[N, D]` and factors `[N, F]` of 10,000 images at most; computed once.

    Raises:
        UserError: if the factors are unknown, or there is but one of them or of the latent's dimensions.
    """
    if "factor points" in subject.memo:
        return subject.memo["factor points"]
    data = subject.data
    splits = [split for split in (data.train, data.val, data.test) if split.factors is not None]
    if not splits:
        raise DoesNotApply(
            f"disentanglement is measured against known factors of variation, which the data set {data.name!r} "
            "does not have: use 'shapes'"
        )
    chosen = permutation(sum(map(len, splits)), 0)[:POINTS]
    codes, factors, start = [], [], 0
    for split in splits:
        part = split.subset(chosen[(chosen >= start) & (chosen < start + len(split))] - start)
        start += len(split)
        parts = {number: subject.model.encode(batch.x, batch.y)[0] for number, batch in subject.batches(part)}
        if len(part) and part.factors is not None:
            codes.append(subject.gather(parts))
            factors.append(part.factors)
    points = torch.cat(codes).float().numpy(), torch.cat(factors).numpy()
    if points[0].shape[1] < 2 or _varying(points[1]).shape[1] < 2:
        raise UserError("disentanglement is measured between at least two latent dimensions and two factors that vary")
    subject.memo["factor points"] = points
    return points
