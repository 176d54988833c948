"""Parameters: base.yaml + a scale + a row's short delta -> one frozen, validated object.

Unknown keys are refused where they are written, so that an error names the file, the row and the key.
"""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from fgaseg.errors import UserError
from fgaseg.schema import OF_BACKBONE, VLM, Launch, Params, Scale, Training


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise ConstructorError(None, None, f"the key '{name}' is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `UserError` when it is missing or malformed."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; restore it with `git checkout {path}`") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}; correct this line") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a mapping of keys to values is expected, such as `key: value`")
    return content


def load_launch(root: Path) -> Launch:
    """The launch settings of the project in folder `root`."""
    path = root / "params" / "launch.yaml"
    content = read_yaml(path)
    _check_keys(content, Launch, str(path))
    try:
        return Launch.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_line(error)}") from None


def check_world(training: Training, world: int, where: str) -> None:
    """`UserError` when `world` processes cannot share the global batch evenly; `where` says who chose so many."""
    if training.global_batch % world:
        raise UserError(
            f"{where}: {world} processes do not divide training.global_batch ({training.global_batch}) evenly; choose a divisor"
        )


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if key:
        message = f"{key}: {message} (got {first['input']!r})" if first["type"] != "value_error" else f"{key}.{message}"
    return message


def _check_keys(
    tree: Any, model: type[BaseModel], where: str, prefix: str = "", elsewhere: frozenset[str] = frozenset()
) -> None:
    """`tree` must have exactly the keys of `model`, but for the dotted ones `elsewhere`; values are not looked at.

    A field with a default may be left out.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {prefix.rstrip('.')}: keys are expected: {', '.join(model.model_fields)}")
    names = [name for name in model.model_fields if prefix + name not in elsewhere]
    for key in tree:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known are {', '.join(names)}"
            raise UserError(f"{where}: unknown parameter '{prefix}{key}'; {hint}")
    for name in names:
        if name not in tree:
            if not model.model_fields[name].is_required():
                continue
            raise UserError(f"{where}: '{prefix}{name}' is missing; write it with a value")
        kind = model.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            _check_keys(tree[name], kind, where, f"{prefix}{name}.", elsewhere)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def apply_delta(tree: dict[str, Any], delta: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `tree` with the dotted keys of `delta` changed; `where` names the file (and row) in errors."""
    if not isinstance(delta, Mapping):
        raise UserError(f"{where}: set: a mapping of parameters to values is expected, such as {{model.fusion: add}}")
    known = _flatten(tree)
    result = copy.deepcopy(tree)
    for key, value in delta.items():
        if key not in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "params/base.yaml lists all"
            if inside:
                hint = f"it is a section, set {' or '.join(inside)}"
            raise UserError(f"{where}: unknown parameter '{key}'; {hint}")
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            node = node[parent]
        node[last] = value
    return result


class Resolver:
    """Turns rows into parameters: reads base.yaml and one scale's file once."""

    def __init__(self, root: Path, scale: Scale) -> None:
        folder = root / "params"
        self._scale_file = folder / "scale" / f"{scale}.yaml"
        base = read_yaml(folder / "base.yaml")
        _check_keys(base, Params, str(folder / "base.yaml"), elsewhere=frozenset(f"vlm.{key}" for key in OF_BACKBONE))
        overlay = read_yaml(self._scale_file)
        self.backbones: dict[str, Any] = overlay.pop("backbones", None)
        delta = overlay.pop("set", {})
        if overlay:
            raise UserError(f"{self._scale_file}: unknown key '{next(iter(overlay))}'; known are backbones, set")
        if not isinstance(self.backbones, dict):
            raise UserError(f"{self._scale_file}: backbones: a mapping of names to {', '.join(OF_BACKBONE)} is expected")
        for name, backbone in self.backbones.items():
            others = frozenset(VLM.model_fields) - frozenset(OF_BACKBONE)
            _check_keys(backbone, VLM, f"{self._scale_file}, backbones.{name}", elsewhere=others)
        self._tree = apply_delta(base, delta, str(self._scale_file))
        self.default = self.resolve({}, str(self._scale_file))

    def resolve(self, delta: Mapping[str, Any], where: str) -> Params:
        """The parameters of a row; `where` names its file and row in errors."""
        tree = apply_delta(self._tree, delta, where)
        backbone = tree["vlm"]["backbone"]
        if backbone not in self.backbones:
            names = ", ".join(self.backbones)
            raise UserError(f"{where}: vlm.backbone: '{backbone}' is not among the backbones of {self._scale_file}: {names}")
        tree["vlm"] |= self.backbones[backbone]
        try:
            return Params.model_validate(tree)
        except ValidationError as error:
            raise UserError(f"{where}: {_first_line(error)}") from None
