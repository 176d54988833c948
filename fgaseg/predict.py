"""Segment photographs into classes that the user names: `fgaseg predict`."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fgaseg.errors import UserError, one_line
from fgaseg.files import write_json, write_whole
from fgaseg.plan import Plan
from fgaseg.using.inputs import Job, jobs, local_path, single_job
from fgaseg.using.overlay import percent, png
from fgaseg.using.pictures import open_photo
from fgaseg.using.segmentation import Segmentation
from fgaseg.using.segmenter import PhotoSegmenter, segmenter_of
from fgaseg.using.vocabulary import (
    Vocabulary,
    check_background,
    check_templates,
    dataset_classes,
    parse_classes,
    read_classes,
)


@dataclass(frozen=True)
class Request:
    """What to find in each photograph."""

    vocabulary: Vocabulary
    prompts: tuple[str, ...] | None = None
    background: float | None = None


def read_request(
    classes: str | None,
    classes_file: Path | None,
    dataset: str | None,
    prompts: Sequence[str] = (),
    background: float | None = None,
) -> Request:
    """The options of the command line. Raises `UserError` unless exactly one of the first three names the classes."""
    if sum(each is not None for each in (classes, classes_file, dataset)) != 1:
        raise UserError('classes: give exactly one of --classes "sky, tree", --classes-file FILE and --vocabulary a-150')
    if classes is not None:
        vocabulary = parse_classes(classes)
    elif classes_file is not None:
        vocabulary = read_classes(classes_file)
    else:
        vocabulary = dataset_classes(str(dataset))
    templates = check_templates(prompts) if prompts else None
    return Request(vocabulary, templates, check_background(background, vocabulary))


def _segment(segmenter: PhotoSegmenter, job: Job, request: Request) -> Segmentation:
    image = open_photo(job.photo)
    return segmenter(image, request.vocabulary, prompts=request.prompts, background=request.background)


def _write(result: Segmentation, job: Job, scale: str) -> None:
    """The overlay last: where it is, the others are."""
    overlay = png(result.overlay())
    write_whole(job.labels, png(result.label_image()))
    content = {"photo": str(job.photo), "run_id": result.run_id, "scale": scale, "classes": result.areas()}
    write_json(job.areas, content)
    write_whole(job.overlay, overlay)


def _table(result: Segmentation) -> list[str]:
    """Share, confidence and name of each class, largest first."""
    order = sorted(range(len(result.names)), key=lambda i: -result.shares[i])
    sure = [f"{c:.2f}" if c is not None else "-" for c in result.class_confidence]
    return [f"{percent(result.shares[i]):>7}  {sure[i]:>4}  {result.names[i]}" for i in order]


def predict_photo(plan: Plan, photo: Path, request: Request, out: Path, run: str, threads: int | None) -> str:
    """Segment one photograph: write the overlay `out`, `<out>.labels.png` and `<out>.json`; returns a table of areas.

    Labels are positions in the list of classes. `run` is a run's id, or "main" for the default model.
    """
    open_photo(photo)
    job = single_job(photo, out)
    result = _segment(segmenter_of(plan, run, threads), job, request)
    _write(result, job, plan.scale)
    return "\n".join([*_table(result), f"wrote {job.overlay}, {job.labels.name}, {job.areas.name}"])


def predict_many(plan: Plan, work: Sequence[Job], request: Request, run: str, threads: int | None) -> tuple[str, int]:
    """Segment photographs one after the other, with a progress bar; what fails costs one warning, and the others go on.

    Returns the closing line, and how many failed.
    """
    segmenter = segmenter_of(plan, run, threads)
    segmenter.prepare(request.vocabulary, request.prompts)
    failed = 0
    with tqdm(work, unit="photo", ncols=100, disable=None) as bar:
        for job in bar:
            try:
                _write(_segment(segmenter, job, request), job, plan.scale)
            except (UserError, OSError) as error:
                failed += 1
                with bar.external_write_mode(file=sys.stderr):
                    logging.getLogger(__name__).warning("left out: %s", one_line(error))
    return f"segmented {len(work) - failed} of {len(work)} photographs", failed


def predict(plan: Plan, photos: Sequence[str], request: Request, out: Path, run: str, threads: int | None) -> tuple[str, bool]:
    """Segment a photograph into the file `out`, or several of them, or folders of them, into the folder `out`.

    Returns what to tell the user, and whether all went well.
    """
    paths = [local_path(each) for each in photos]
    if len(paths) == 1 and (not paths[0].is_dir() or out.suffix.lower() == ".png"):
        return predict_photo(plan, paths[0], request, out, run, threads), True
    work = jobs(paths, out)
    told, failed = predict_many(plan, work, request, run, threads)
    return f"{told} into {out}", failed == 0
