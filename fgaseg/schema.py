"""What parameters there are: frozen, validated records of base.yaml's sections and of launch.yaml."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scale = Literal["sample", "paper"]
Precision = Literal["float32", "bfloat16", "float16"]
OF_BACKBONE = ("label", "architecture", "pretrained", "pretrained_sha256", "image_size", "guidance_layers")
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
    train: str
    validation: str
    benchmarks: tuple[str, ...] = Field(min_length=1)
    train_classes: Literal["all", "present"]


class VLM(_Frozen):
    backbone: str
    label: str
    architecture: str
    pretrained: str
    pretrained_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{8,64}$")] | None = None
    image_size: Positive
    guidance_layers: tuple[int, int]
    dense_residual: Literal["class_token", "own"]
    prompts: tuple[str, ...] = Field(min_length=1)
    finetune: Literal["attention", "full", "prompt-16", "frozen"]

    @model_validator(mode="after")
    def _templates_have_a_place(self) -> "VLM":
        for prompt in self.prompts:
            if not prompt.count("{}") == prompt.count("{") == prompt.count("}") == 1:
                raise ValueError(f"prompts: '{prompt}' needs exactly one {{}} for the class name, and no other braces")
        return self

    @model_validator(mode="after")
    def _guidance_in_order(self) -> "VLM":
        first, second = self.guidance_layers
        if not 0 <= first < second:
            raise ValueError(
                f"guidance_layers: {first}, {second}: give two different blocks, counted from 0, the earlier first"
            )
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
    aux_weighting: Literal["all", "first"]

    @model_validator(mode="after")
    def _channels_fall_into_groups(self) -> "Decoder":
        for key, sizes in (("channels", self.channels), ("lcs_channels", (self.lcs_channels,))):
            for size in sizes:
                if size > 16 and size % 16:
                    raise ValueError(f"{key}: {size} channels do not fall into groups of 16; choose a multiple of 16, or less")
        return self


class Model(_Frozen):
    hidden_dim: Positive
    embedding_kernel: Positive
    fusion: Literal["cat", "add"]
    p2tformer: P2Tformer
    t2p: T2P
    lcs: LCS
    propagation: Propagation
    decoder: Decoder

    @model_validator(mode="after")
    def _odd_embedding(self) -> "Model":
        if self.embedding_kernel % 2 == 0:
            raise ValueError(f"embedding_kernel: {self.embedding_kernel} is even; a kernel needs a centre, choose an odd size")
        return self


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
    precision: Precision
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
        inputs = (("model.hidden_dim", m.hidden_dim), ("model.decoder.channels[0]", m.decoder.channels[0]))
        for i, (guidance, (key, channels)) in enumerate(zip(m.decoder.guidance_channels, inputs, strict=True)):
            if guidance >= channels:
                raise ValueError(
                    f"model.decoder.guidance_channels[{i}]: {guidance} leave nothing of {key} ({channels}) for the classes; "
                    "choose fewer"
                )
        if e.stride > e.window:
            raise ValueError(
                f"evaluation.stride: {e.stride} leaves gaps between windows of {e.window}; choose at most {e.window}"
            )
        if e.resize < e.window or (e.resize - e.window) % e.stride:
            raise ValueError(
                f"evaluation.resize: windows of {e.window} at stride {e.stride} do not end at {e.resize}; "
                "choose resize = window + a multiple of stride"
            )
        if self.vlm.finetune != "frozen" and self.training.clip_lr_multiplier == 0:
            raise ValueError("training.clip_lr_multiplier: 0 trains nothing of CLIP; say vlm.finetune: frozen instead")
        return self


class Timing(_Frozen):
    """How times per image are measured."""

    images: Positive
    warm_up: Annotated[int, Field(ge=0)]
    repeats: Positive


class Cluster(_Frozen):
    """What a SLURM job of one training asks for."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    nodes: Positive
    gpus_per_node: Positive
    cpus_per_gpu: Positive
    memory_gb: Positive | None
    hours: Annotated[float, Field(gt=0)]
    notice_seconds: Positive
    setup: tuple[str, ...]
    retries: Annotated[int, Field(ge=0)]

    @property
    def world(self) -> int:
        """Processes of a training, one for each GPU."""
        return self.nodes * self.gpus_per_node


Value = TypeVar("Value")


class _AtScales(_Frozen, Generic[Value]):
    """A setting with a value for each scale. Launch settings are pickled, which asks for a class with a name for each type."""

    sample: Value
    paper: Value

    def __getitem__(self, scale: Scale) -> Value:
        return self.sample if scale == "sample" else self.paper


class CountAtScales(_AtScales[Positive]):
    """A number for each scale."""


class SecondsAtScales(_AtScales[Fraction]):
    """A time for each scale."""


class SwitchAtScales(_AtScales[bool]):
    """A yes or no for each scale."""


class Launch(_Frozen):
    """How and where things run: never part of a run's identity."""

    threads: Positive
    workers: Annotated[int, Field(ge=0)]
    images_per_pass: CountAtScales
    classes_at_once: CountAtScales
    recompute: SwitchAtScales
    compile: bool
    checkpoint_seconds: SecondsAtScales
    log_every: Positive
    timing: Timing
    tracking_uri: str | None
    cluster: Cluster
