"""``captioner thresholds``: what each threshold costs, for a captions table."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import ThresholdsOptions


def _run(options: ThresholdsOptions) -> None:
    from captioner_core.analysis.thresholds import check_plot, draw_thresholds, threshold_rows
    from captioner_core.matching.loading import check_captions_table
    from captioner_core.text.encoders import load_encoder

    check_plot(options.output, {"--captions": [options.captions]})
    check_captions_table(options.captions)
    rows = threshold_rows(
        options.captions,
        load_encoder(options.encoder),
        options.split,
        min_confidence=options.min_confidence,
    )
    print("threshold   matches a caption   people say yes   of all pairs with a yes")
    for row in rows:
        print(f"{row.threshold:9.2f} {row.matches:19.3f} {row.yes_share:16.1%} {row.recall:25.2%}")
    draw_thresholds(rows, options.output)
    print(options.output)


register = subcommand(
    "thresholds",
    ThresholdsOptions,
    _run,
    help="matches for each threshold, and how many people would agree with them",
    description=(
        "Compares a table's captions with each other and prints what each threshold would let "
        "through."
    ),
)
