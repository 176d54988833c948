"""The rows that the paper prints in Table I, in its order."""

from dataclasses import dataclass

from fgaseg.params import Resolver
from fgaseg.plan import Plan


@dataclass(frozen=True)
class Published:
    """One printed row; mIoU in percent in the benchmarks' order, None where the paper has no number.

    `reference` is the number in the paper's list, None for the paper itself. What the paper leaves empty is None.
    """

    method: str
    reference: int | None
    vlm: str | None
    backbone: str | None
    train: str
    miou: tuple[float | None, ...]


def published_groups(plan: Plan) -> list[list[Published]]:
    """For the smaller, then the larger backbones: the other methods, closed by FGAseg."""
    table = plan.tables["table_1"]
    groups: dict[str, list[Published]] = {}
    for other in table.others:
        row = Published(
            other["method"], other["ref"], other["vlm"], other["backbone"], other["train"], tuple(other["published"])
        )
        groups.setdefault(other["group"], []).append(row)
    paper = Resolver(plan.root, "paper")
    for ours in table.rows:
        if ours.published:
            backbone = ours.params.vlm.backbone
            vlm = paper.resolve({"vlm.backbone": backbone}, ours.name).vlm.label
            groups.setdefault(backbone, []).append(Published("FGAseg", None, vlm, None, "COCO-Stuff", ours.published))
    return list(groups.values())
