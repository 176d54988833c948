"""What is still missing after an import, and what to do next."""

from fgaseg.data.raw import raw_dataset
from fgaseg.errors import UserError
from fgaseg.identity import data_file
from fgaseg.plan import Plan


def completeness(plan: Plan, name: str) -> str:
    """One line: the dataset is complete, or what it still lacks."""
    raw, root = raw_dataset(plan.find_dataset(name), plan.root, plan.default.data.root)
    try:
        survey = raw.survey(root)
    except UserError as error:
        return f"{name}: not complete yet: {error}"
    if survey.defects:
        more = f" (and {len(survey.defects) - 1} more)" if len(survey.defects) > 1 else ""
        return f"{name}: not complete yet: {survey.defects[0].text}{more}"
    data_root = plan.default.data.root
    track = "dvc commit" if data_file(plan.root, data_root) else f"dvc add {data_root}"
    return f"{name}: {len(survey.items)} images with labels; next: fgaseg data verify {name} --scale {plan.scale}, then {track}"
