"""``captioner export``: makes one small model folder of one or several trained models."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import ExportOptions


def _run(options: ExportOptions) -> None:
    from captioner_core.captioning.export import export_model
    from captioner_core.models.registry import resolve_model

    folders = [resolve_model(model) for model in options.model]
    model_id = export_model(
        folders, options.output, options.beam_width, options.length_penalty, options.joint_weight
    )
    print(f"model {model_id} in {options.output}")


register = subcommand(
    "export",
    ExportOptions,
    _run,
    help="one or several trained models as one, with float16 weights",
    description=(
        "Writes a model with float16 weights. Several models of different seeds become an ensemble."
    ),
)
