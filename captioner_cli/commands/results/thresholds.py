"""``captioner thresholds``: what each threshold costs, for a captions table."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import ThresholdsOptions


def _run(options: ThresholdsOptions) -> None:
    from captioner_core.analysis.thresholds import check_plot, draw_thresholds, threshold_rows
    from captioner_core.matching.loading import check_captions_table
    from captioner_core.text.encoders import load_encoder

    check_plot(options.output, {"--captions": [options.captions]})
    check_captions_table(options.captions)
    rows = threshold_rows(options.captions, load_encoder(options.encoder), options.split)
    print("threshold   matches a caption   right   of all right")
    for row in rows:
        print(f"{row.threshold:9.2f} {row.matches:19.3f} {row.precision:7.1%} {row.recall:14.2%}")
    draw_thresholds(rows, options.output)
    print(options.output)


register = subcommand(
    "thresholds",
    ThresholdsOptions,
    _run,
    help="matches and estimated precision and recall for each threshold",
    description=(
        "Compares a table's captions with each other and prints what each threshold would let "
        "through."
    ),
)
