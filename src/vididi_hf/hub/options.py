"""Options of the commands that publish, convert and export checkpoints."""

from dataclasses import dataclass, fields

from vididi_hf.options import Options, option

GRAPH_INPUTS = ("frames", "uint8_frames", "derivative")
EXPORT_FORMATS = (".onnx", ".pt2")
_CHECKPOINT = "Folder of a run, of one of its checkpoints, or of a saved model."


@dataclass(kw_only=True)
class PublishOptions(Options):
    """Options of `vididi publish`. `help` of each field describes it.

    Example:
        >>> PublishOptions(checkpoint="runs/mine", repo="org/vididi-vicreg").public
        False
    """

    checkpoint: str = option(positional=True, help=_CHECKPOINT)
    repo: str = option(help="Repository on the Hub, owner/name. Created if it does not exist.")
    dry_run: str | None = option(default=None, help="Write the repository to this new folder and send nothing.")
    public: bool = option(default=False, help="Make a new repository public. By default it is private.")
    revision: str = option(default="main", help="Branch. Created if it does not exist.")
    message: str = option(default="Publish with vididi_hf", help="Commit message.")
    encoder_only: bool = option(default=False, help="Leave out the head of a classifier or detector.")
    with_code: bool = option(default=True, help="Add the model's code, for users who have only transformers.")
    results: list[str] = option(default_factory=list, help="Evaluation reports, or folders of them, to add.")
    figures: list[str] = option(default_factory=list, help="PNG figures, or folders of them, to add.")
    license: str = option(default="apache-2.0", help="License of the weights: an identifier of the Hub.")
    license_name: str | None = option(default=None, help="Name of the license, with --license other.")
    license_link: str | None = option(default=None, help="Link to the license, with --license other.")
    base_model: str | None = option(default=None, help="Id on the Hub of the model that was fine-tuned.")
    notes: str | None = option(default=None, help="Markdown file with text for the card's section Notes.")
    overwrite_card: bool = option(
        default=False, help="Replace a README.md and figures on the Hub that this command did not write, or not last."
    )
    template: str | None = option(default=None, help="Jinja template of the card that replaces the default one.")


@dataclass(kw_only=True)
class ConvertOptions(Options):
    """Options of `vididi convert`. `help` of each field describes it."""

    source: str = option(positional=True, help="File of tensors; or a checkpoint folder, with --to torchvision.")
    output: str = option(positional=True, help="Folder to write; or a file, with --to torchvision.")
    to: str = option(default="vididi", choices=("vididi", "torchvision"), help="Layout of the output.")
    order: int | None = option(default=None, at_least=0, help="To torchvision: derivative order of the BatchNorms.")
    prefix: str | None = option(default=None, help="To vididi: prefix of the network, if the file has several.")
    with_classifier: bool = option(default=False, help="To vididi: keep the classifier.")
    num_frames: int = option(default=8, at_least=2, help="To vididi: frames per clip.")
    image_size: int = option(default=112, at_least=32, help="To vididi: height and width of the input in pixels.")

    def __post_init__(self) -> None:
        super().__post_init__()
        other = "vididi" if self.to == "torchvision" else "torchvision"
        for spec in fields(self):
            if spec.metadata["help"].startswith(f"To {other}") and getattr(self, spec.name) != spec.default:
                raise ValueError(f"{spec.name} is an option of --to {other}")


@dataclass(kw_only=True)
class ExportOptions(Options):
    """Options of `vididi export`. `help` of each field describes it."""

    checkpoint: str = option(positional=True, help=_CHECKPOINT)
    output: str = option(positional=True, help=f"File to write; it ends in {' or '.join(EXPORT_FORMATS)}.")
    inputs: str = option(default="frames", choices=GRAPH_INPUTS, help=f"Input of the graph: {', '.join(GRAPH_INPUTS)}.")
    orders: list[int] | None = option(
        default=None, at_least=0, help="Derivative orders, concatenated. Default: 0, or 1 for the input derivative."
    )
    num_frames: int | None = option(default=None, at_least=1, help="Frames per clip. Default: the checkpoint's.")
    image_size: int | None = option(default=None, at_least=1, help="Height and width. Default: the checkpoint's.")
    encoder_only: bool = option(default=False, help="Leave out the classifier.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output.endswith(EXPORT_FORMATS):
            raise ValueError(f"output must end in {' or '.join(EXPORT_FORMATS)}, got {self.output!r}")
