"""Parameters: base.yaml + a scale + a row's short delta -> one frozen, validated object.

Unknown keys are refused where they are written, so that an error names the file, the row and the key.
"""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml.constructor import ConstructorError

from fgaseg.errors import UserError

Scale = Literal["sample", "paper"]
Benchmark = Literal["a-847", "pc-459", "a-150", "pc-59", "pas-20"]
_OF_BACKBONE = ("label", "architecture", "pretrained", "image_size", "guidance_layers")
"""The parameters of `vlm` that a scale's backbones give."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Revision(_Frozen):
    training: int
    evaluation: int


class Data(_Frozen):
    root: str
    train: Literal["coco-stuff-train"]
    validation: Literal["coco-stuff-val"]
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    train_classes: Literal["all", "present"]


class VLM(_Frozen):
    backbone: str
    label: str
    architecture: str
    pretrained: str
    image_size: Positive
    guidance_layers: tuple[int, int]
    dense_residual: Literal["class_token", "own"]
    prompts: tuple[str, ...] = Field(min_length=1)
    finetune: Literal["attention", "full", "prompt-16", "frozen"]

    @model_validator(mode="after")
    def _templates_have_a_place(self) -> "VLM":
        for prompt in self.prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"prompts: '{prompt}' needs exactly one {{}} for the class name")
        return self


class P2Tformer(_Frozen):
    layers: Annotated[int, Field(ge=0)]
    heads: Positive
    gamma: Literal["trainable"] | float
    gamma_init: float


class T2P(_Frozen):
    weight: Fraction
    loss: Literal["mse", "bce"]


class LCS(_Frozen):
    enabled: bool
    kernel_size: Positive
    normalisation: Literal["channels", "taps", "none"]

    @model_validator(mode="after")
    def _odd_kernel(self) -> "LCS":
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: {self.kernel_size} is even; a kernel needs a centre, choose an odd size")
        return self


class Propagation(_Frozen):
    blocks: Positive
    window: Positive
    heads: Positive
    mlp_ratio: Positive
    pooling: Positive
    class_cap: Positive
    guidance_dim: Positive


class Decoder(_Frozen):
    channels: tuple[Positive, Positive]
    guidance_hidden: tuple[Positive, Positive]
    guidance_channels: tuple[Positive, Positive]
    lcs_channels: Positive
    fast: bool
    aux_weight: Fraction


class Model(_Frozen):
    hidden_dim: Positive
    embedding_kernel: Positive
    fusion: Literal["cat", "add"]
    p2tformer: P2Tformer
    t2p: T2P
    lcs: LCS
    propagation: Propagation
    decoder: Decoder


class Augmentation(_Frozen):
    crop: Positive
    short_edges: tuple[Positive, ...] = Field(min_length=1)
    colour_jitter: bool
    flip: bool
    pad_value: Annotated[int, Field(ge=0, le=255)]


class Training(_Frozen):
    loss: Literal["ce", "bce"]
    iterations: Positive
    global_batch: Positive
    lr: Annotated[float, Field(gt=0)]
    clip_lr_multiplier: Fraction
    weight_decay: Fraction
    max_norm: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine"]
    validate_every: Positive
    seed: Annotated[int, Field(ge=0)]
    augmentation: Augmentation


class Evaluation(_Frozen):
    resize: Positive
    window: Positive
    stride: Positive
    whole_image: bool
    top_n: Positive | None
    panels: Annotated[int, Field(ge=0)]


class Params(_Frozen):
    """Everything that decides the result of a training and its evaluation."""

    revision: Revision
    data: Data
    vlm: VLM
    model: Model
    training: Training
    evaluation: Evaluation

    @model_validator(mode="after")
    def _combinations(self) -> "Params":
        m, e = self.model, self.evaluation
        if e.top_n is not None and not m.decoder.fast:
            raise ValueError("evaluation.top_n needs the fast decoder's heads: set model.decoder.fast: true, or top_n: null")
        if m.hidden_dim % m.propagation.heads:
            raise ValueError(f"model.hidden_dim: {m.hidden_dim} is no multiple of propagation.heads ({m.propagation.heads})")
        if e.stride > e.window:
            raise ValueError(
                f"evaluation.stride: {e.stride} leaves gaps between windows of {e.window}; choose at most {e.window}"
            )
        if e.resize < e.window or (e.resize - e.window) % e.stride:
            raise ValueError(
                f"evaluation.resize: windows of {e.window} at stride {e.stride} do not end at {e.resize}; "
                "choose resize = window + a multiple of stride"
            )
        if self.vlm.finetune == "frozen" and self.training.clip_lr_multiplier == 0:
            raise ValueError(
                "training.clip_lr_multiplier: 0 is what vlm.finetune: frozen says already; leave it at its default"
            )
        return self


class Launch(_Frozen):
    """How and where things run: never part of a run's identity."""

    threads: Positive
    workers: Annotated[int, Field(ge=0)]
    checkpoint_seconds: Fraction
    log_every: Positive
    tracking_uri: str | None


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
    """`tree` must have exactly the keys of `model`, but for the dotted ones `elsewhere`; values are not looked at."""
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
        _check_keys(base, Params, str(folder / "base.yaml"), elsewhere=frozenset(f"vlm.{key}" for key in _OF_BACKBONE))
        overlay = read_yaml(self._scale_file)
        self._backbones: dict[str, Any] = overlay.pop("backbones", None)
        delta = overlay.pop("set", {})
        if overlay:
            raise UserError(f"{self._scale_file}: unknown key '{next(iter(overlay))}'; known are backbones, set")
        if not isinstance(self._backbones, dict):
            raise UserError(f"{self._scale_file}: backbones: a mapping of names to {', '.join(_OF_BACKBONE)} is expected")
        for name, backbone in self._backbones.items():
            others = frozenset(VLM.model_fields) - frozenset(_OF_BACKBONE)
            _check_keys(backbone, VLM, f"{self._scale_file}, backbones.{name}", elsewhere=others)
        self._tree = apply_delta(base, delta, str(self._scale_file))
        self.default = self.resolve({}, str(self._scale_file))

    def resolve(self, delta: Mapping[str, Any], where: str) -> Params:
        """The parameters of a row; `where` names its file and row in errors."""
        tree = apply_delta(self._tree, delta, where)
        backbone = tree["vlm"]["backbone"]
        if backbone not in self._backbones:
            names = ", ".join(self._backbones)
            raise UserError(f"{where}: vlm.backbone: '{backbone}' is not among the backbones of {self._scale_file}: {names}")
        tree["vlm"] |= self._backbones[backbone]
        try:
            return Params.model_validate(tree)
        except ValidationError as error:
            raise UserError(f"{where}: {_first_line(error)}") from None
