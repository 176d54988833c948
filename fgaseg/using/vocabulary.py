"""The classes of a prediction: names with synonyms, from text, a file, a list or a dataset's table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fgaseg.data.classes import class_table
from fgaseg.errors import UserError
from fgaseg.using.limits import OWN_FILES, Limits

DATASETS = ("a-150", "a-847", "coco-stuff", "pas-20", "pc-59", "pc-459")
BACKGROUND = "background"


@dataclass(frozen=True)
class Vocabulary:
    """Classes in the order of their labels, each with all its names, the first of which is shown."""

    synonyms: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> list[str]:
        """One name a class."""
        return [names[0] for names in self.synonyms]

    @property
    def prompted(self) -> list[str]:
        """All names of all classes, in order: what the text encoder reads."""
        return [name for names in self.synonyms for name in names]

    @property
    def owners(self) -> list[int]:
        """For each of `prompted` the label of its class."""
        return [label for label, names in enumerate(self.synonyms) for _ in names]


def _check(classes: Sequence[Sequence[str]], where: str, limits: Limits) -> Vocabulary:
    """The classes, once none is named twice or in what cannot be shown, and there are not too many. `where` begins an error."""
    if not classes:
        raise UserError(f'{where}: the list is empty; name classes such as "sky, tree, car"')
    count = sum(len(names) for names in classes)
    if len(classes) > limits.classes or count > limits.names:
        raise UserError(
            f"{where}: {len(classes)} classes with {count} names; at most {limits.classes} with {limits.names} are taken"
        )
    seen: set[str] = set()
    for name in (name for names in classes for name in names):
        short = f"{name[:40]}..." if len(name) > 40 else name
        if len(name) > limits.letters:
            raise UserError(f"{where}: class name '{short}' has {len(name)} letters; at most {limits.letters} are taken")
        if name in seen:
            raise UserError(f"{where}: '{short}' is named twice; name it once")
        if not name.isprintable():
            raise UserError(f"{where}: {short!a} holds characters that cannot be shown; write words")
        seen.add(name)
    return Vocabulary(tuple(tuple(names) for names in classes))


def _synonyms(text: str, where: str, limits: Limits) -> list[str]:
    """The names of one class, "sofa|couch"."""
    names = [name for name in map(str.strip, text.split("|")) if name]
    if not names:
        raise UserError(f"{where}: a class name is empty; remove it or write a name")
    return names


def parse_classes(text: str, where: str = "--classes", limits: Limits = OWN_FILES) -> Vocabulary:
    """Classes from "sky, tree, sofa|couch": commas or line ends part classes, bars the names of one."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    return _check([_synonyms(part, where, limits) for part in parts if part], where, limits)


def list_classes(classes: Sequence[str], where: str = "classes", limits: Limits = OWN_FILES) -> Vocabulary:
    """Classes from a list, each a name or names parted by bars; here commas belong to names."""
    if isinstance(classes, str | bytes) or not all(isinstance(each, str) for each in classes):
        raise UserError(f'{where}: a list of names is expected, such as ["sky", "tree", "sofa|couch"]')
    if len(classes) > limits.classes:
        raise UserError(f"{where}: {len(classes)} classes; at most {limits.classes} are taken")
    return _check([_synonyms(each, where, limits) for each in classes], where, limits)


def read_classes(path: Path, limits: Limits = OWN_FILES) -> Vocabulary:
    """Classes from a text file in UTF-8, one a line; empty lines and those that begin with # are left out."""
    try:
        limits.check_bytes(path.stat().st_size, str(path))
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write one class a line into it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a text file with one class a line") from None
    return list_classes([line for line in map(str.strip, lines) if line and not line.startswith("#")], str(path), limits)


def dataset_classes(name: str) -> Vocabulary:
    """A dataset's classes by the names that evaluations prompt with; labels are those of prepared files.

    A-847 has nine names twice. Of two classes with one name the first gets the pixels, as in evaluations.
    """
    if name not in DATASETS:
        raise UserError(f"--vocabulary: '{name}' is unknown; choose {', '.join(DATASETS)}")
    return Vocabulary(tuple((entry.name,) for entry in class_table(name)))


def check_templates(templates: Sequence[str], where: str = "--prompt", limits: Limits = OWN_FILES) -> tuple[str, ...]:
    """Prompt templates, each with one {} for the name. Raises `UserError` for any other."""
    if isinstance(templates, str | bytes) or not all(isinstance(each, str) for each in templates):
        raise UserError(f'{where}: a list of templates is expected, such as ["a photo of a {{}}"]')
    if not 1 <= len(templates) <= limits.templates:
        raise UserError(f"{where}: {len(templates)} templates; 1 to {limits.templates} are taken")
    for template in templates:
        if len(template) > limits.letters:
            raise UserError(f"{where}: '{template[:40]}...' has {len(template)} letters; at most {limits.letters} are taken")
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise UserError(f"{where}: '{template}' needs exactly one {{}} for the class name, and no other braces")
    return tuple(templates)


def check_background(threshold: float | None, vocabulary: Vocabulary, where: str = "--background") -> float | None:
    """The score below which a pixel becomes background, or None for no background."""
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise UserError(f"{where}: a number from 0 to 1 is expected")
    if not 0 <= threshold <= 1:
        raise UserError(f"{where}: {str(threshold)[:20]} is no score; a number from 0 to 1 is expected")
    if BACKGROUND in vocabulary.prompted:
        raise UserError(f"{where}: a class is called {BACKGROUND} already; leave it out of the classes, or the threshold")
    return float(threshold)
