"""Weights of labels in the training loss, where some labels are rare or matter more."""

from collections import Counter
from collections.abc import Sequence

from stages.lib.params.fit import Fit, check_class_weights
from stages.lib.records.tokenized_examples import Label, TokenizedDataset


def class_weights(
    settings: Fit, labels: Sequence[Label], train: TokenizedDataset
) -> dict[tuple[int, ...], float] | None:
    """Target ids of each label -> its weight. None if all weigh the same.

    `balanced` weighs a label by n / (k * count), for n examples with k labels (King and Zeng 2001; scikit-learn). So
    the examples of each label weigh the same together, and an example weighs 1 on average. A label without examples
    needs no weight.

    Raises:
        UserError: see `check_class_weights`.
    """
    weights = settings.class_weights
    if weights is None:
        return None
    check_class_weights(settings, [label.word for label in labels])
    if weights != "balanced":
        return {tuple(label.target_ids): weights[label.word] for label in labels}
    counts = Counter(tuple(example.target_ids) for example in train)
    return {target: len(train) / (len(counts) * count) for target, count in counts.items()}
