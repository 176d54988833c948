"""How many photographs a dataset should have."""

from fgaseg.catalogue import KnownDataset, OwnDataset
from fgaseg.plan import Plan
from fgaseg.sample.datasets import MINIATURES


def drawn_or_published(plan: Plan, dataset: KnownDataset) -> int:
    """How many photographs a dataset of the paper is published with, or drawn with at the sample scale."""
    return dataset.images if plan.scale == "paper" else MINIATURES[dataset.miniature].count


def expected_images(plan: Plan, name: str) -> int | None:
    """How many photographs a dataset should have; None for a user's own."""
    dataset = plan.find_dataset(name)
    return None if isinstance(dataset, OwnDataset) else drawn_or_published(plan, dataset)


def miscounted(name: str, there: int, expected: int | None) -> str | None:
    """One line that says how many photographs of a dataset are missing or too many; None where none is expected."""
    if expected is None or there == expected:
        return None
    verb = "are missing" if there < expected else "are too many"
    return f"{there} photographs with labels, where {name} has {expected}: {abs(there - expected)} {verb}"
