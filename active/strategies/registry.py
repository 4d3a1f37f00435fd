"""What `python -m active strategies` says of each strategy: its idea, its source, its cost, and what it needs.

Letters of the costs: N unlabelled, L labelled, S source and V validation samples; C classes; F features; H units of all
layers; P patches; T passes; b the budget; k the clusters.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One strategy, for people and for what prepares its query."""

    name: str
    line: str  # the idea, in one line
    source: str  # where it was published
    cost: str  # time
    needs: tuple[str, ...] = ()  # the fields of Query without which it refuses


_BOOK = "Munro, Human-in-the-Loop Machine Learning, 2021, ch. "
_SORT = "O(N C log C + N log N)"
_ERRORS = ("logits", "validation_logits", "validation_targets")

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card("random", "a uniform draw: the control that every other strategy has to beat", "-", "O(N)"),
        Card(
            "random_balanced",
            "equal shares of the predicted classes, as far as the pool has them, at random within a class",
            "-",
            "O(N C)",
            ("probs",),
        ),
        Card("least_confidence", "the lowest probability of the most likely class", _BOOK + "3", _SORT, ("probs",)),
        Card("margin", "the smallest gap between the two most likely classes", _BOOK + "3", _SORT, ("probs",)),
        Card(
            "ratio", "the runner-up's probability nearest to the winner's, as a ratio", _BOOK + "3", _SORT, ("probs",)
        ),
        Card("entropy", "the flattest distribution over all classes", _BOOK + "3", _SORT, ("probs",)),
        Card(
            "outliers",
            "the lowest activations beside those of held-out source samples, by rank, over logits and layers",
            _BOOK + "4",
            "O((N + V) (C + H) log V)",
            ("logits", "validation_logits"),
        ),
        Card(
            "clusters",
            "of each cluster its centre, its outlier and random members",
            _BOOK + "4",
            "O(N F k), times the iterations of k-means",
            ("features",),
        ),
        Card(
            "representative",
            "more like the mean of the target than like that of the training data, by cosine",
            _BOOK + "4",
            "O((N + S + L) F)",
            ("features", "source_features"),
        ),
        Card(
            "representative_adaptive",
            "as representative, the means taken anew after each pick, which joins the training data",
            _BOOK + "4",
            "O((N + S + L) F + N F b)",
            ("features", "source_features"),
        ),
        Card(
            "representative_clusters",
            "nearer to a cluster of the target than to any of the training data, by cosine",
            _BOOK + "4",
            "O((N + S + L) F k), times the iterations of k-means",
            ("features", "source_features"),
        ),
        Card(
            "uncertain_then_diverse",
            "of the most uncertain tenth, each cluster's centre, outlier and random members",
            _BOOK + "5",
            "O(N C log C + N F k), times the iterations of k-means",
            ("probs", "features"),
        ),
        Card(
            "uncertain_cluster",
            "from the cluster with the highest mean uncertainty, then the next",
            _BOOK + "5",
            "O(N C log C + N F k), times the iterations of k-means",
            ("probs", "features"),
        ),
        Card(
            "atl_uncertainty",
            "most likely wrong, by a new last layer trained on what validation gets right and wrong",
            _BOOK + "5",
            "O((N + V) F), times the iterations of one training",
            _ERRORS,
        ),
        Card(
            "atl_representative",
            "least like the training domain, by a cross-fitted classifier that sees all layers",
            _BOOK + "5",
            "O((N + S + L) F), times the iterations of three trainings",
            ("features", "source_features"),
        ),
        Card(
            "atlas",
            "as atl_uncertainty in ten steps: what is asked for counts as correct, so the next ones are others",
            _BOOK + "5",
            "O((N + V + b) F), times the iterations of ten trainings",
            _ERRORS,
        ),
        Card(
            "k_center",
            "farthest from all that is labelled or asked for: covers the pool with the smallest radius, greedily",
            "Sener & Savarese, ICLR 2018, Algorithm 1",
            "O(N F (L + b)) at most",
            ("features",),
        ),
        Card(
            "robust_k_center",
            "the smallest radius that covers all but 1 % of the pool, by a mixed-integer program; at most 3000 samples",
            "Sener & Savarese, ICLR 2018, Algorithm 2",
            "O(N (N + L) F) and a program, at worst exponential in N, for 60 s at most",
            ("features",),
        ),
        Card(
            "mmd_reduction",
            "those whose move from target to source brings the two closest in MMD, greedily",
            "this project",
            "O(N F (N + S + L + b))",
            ("features", "source_features"),
        ),
        Card(
            "aift",
            "candidates whose patches are unsure or disagree (patented in the US); the paper's codes as aift:E+M+R",
            "Zhou et al., CVPR 2017",
            "O(N P (C + log P))",
            ("patch_probs",),
        ),
        Card(
            "hybrid",
            "with source and labels, cover the target where the network hesitates, under DAN's own kernel",
            "this project",
            "O(N F (N / 2 + S + L)), then O(N F) for each sample that a pick may be",
            ("features", "probs"),
        ),
        Card(
            "sum_of_three",
            "far from what is labelled, where the target exceeds the source, and unsettled: three parts in one sum",
            "this project",
            "O(N F (N + S + L + b))",
            ("features", "source_features", "probs"),
        ),
        Card(
            "badge",
            "k-means++ on gradient embeddings: gradients that would be large, and differ",
            "Ash et al., ICLR 2020, Algorithm 1",
            "O(N C b + N F) and O(F) for each sample that a pick may come near",
            ("probs", "features"),
        ),
        Card(
            "clue",
            "nearest to the centres of k-means weighted by entropy: each pick stands for unsure samples near it",
            "Prabhu et al., ICCV 2021",
            "O(N F b), times the iterations of k-means",
            ("probs", "features"),
        ),
        Card(
            "aada",
            "unlike the source by a domain discriminator, times the entropy",
            "Su et al., WACV 2020",
            _SORT,
            ("probs", "domain_probs"),
        ),
        Card(
            "energy",
            "the half with the highest free energy, of it the smallest gap between the two lowest class energies",
            "Xie et al., AAAI 2022",
            "O(N C + N log N)",
            ("logits",),
        ),
        Card(
            "typiclust",
            "the most typical sample of each of the largest clusters without a label",
            "Hacohen et al., ICML 2022",
            "O(N F (L + b)), times the iterations of k-means, and O(M^2 F) a pick in a cluster of M",
            ("features",),
        ),
        Card(
            "probcover",
            "the balls of one radius that cover the most samples not covered yet",
            "Yehuda et al., NeurIPS 2022",
            "O(N^2 F + b N F)",
            ("features",),
        ),
        Card(
            "uherding",
            "covers the pool where the network hesitates, by a kernel that narrows as labels come in",
            "Bae et al., ICLR 2025",
            "O(N^2 F + L^2 F + L N F), then O(N F) for each gain taken anew",
            ("probs", "features"),
        ),
        Card(
            "kernel_herding",
            "those that, with what is labelled, have the mean embedding of the whole target, greedily",
            "Welling, ICML 2009; Chen et al., UAI 2010, eq. 8",
            "O(N F (N + L + b))",
            ("features",),
        ),
        Card(
            "dropout_disagreement",
            "where dropout passes contradict each other: mutual information of label and weights",
            "Houlsby et al., 2011; Gal et al., ICML 2017",
            "O(T N C + N log N)",
            ("dropout_probs",),
        ),
    )
}
