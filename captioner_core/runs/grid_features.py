"""What must be true of a run's features before captions are made of them."""

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import CaptionOptions
from captioner_core.runs import commits, identity
from captioner_core.tables import layout


def check_grid_features(options: CaptionOptions, backbone: str) -> commits.Manifest:
    """Checks that a run has features that a captioner can read.

    Args:
      options: The options of the caption job. They name the run and the model.
      backbone: The backbone on whose features the model was trained.

    Returns:
      What the run's manifest says of its extract stage.

    Raises:
      CaptionerError: The run has no features with their grid, or they are of other images, of
        another collection or of another backbone.
    """
    manifest = commits.read_manifest(options.layout.run_dir)
    extracted = manifest["options"]
    run = f"run {options.layout.run_dir!r}"
    if layout.EXTRACT not in manifest["stages"] or not extracted.get("grid"):
        raise CaptionerError(
            f"--from-features: {run} has no features with their grid; run extract with the same "
            "--run-id first, or leave the option out"
        )
    if extracted["images"] != options.images:
        raise CaptionerError(
            f"--from-features: {run} has features of {extracted['images']!r}, not of --images "
            f"{options.images!r}; extract those, or name another --run-id"
        )
    collection = identity.collection_of_run(manifest, options.layout.run_dir)
    if options.collection not in (None, collection):
        raise CaptionerError(
            f"--collection {options.collection!r}: {run} has features of collection "
            f"{collection!r}; leave the option out, or extract again with it"
        )
    others = _backbones(options.layout) - {backbone}
    if others:
        raise CaptionerError(
            f"model {options.model!r} was trained on features of {backbone!r}, and {run} has those "
            f"of {others.pop()!r}; extract with the --backbone that it was trained with"
        )
    return commits.restrict_manifest(manifest, (layout.EXTRACT,))


def _backbones(run: layout.RunLayout) -> set[str]:
    """Returns the backbones that made a run's features, or an empty set if it has no rows.

    The first row group is enough, since one job writes all rows with one backbone.
    """
    for part in storage.list_parts(run.table(layout.FEATURES)):
        if storage.row_group_count(part):
            return set(storage.read_row_group(part, 0, ["backbone"]).column(0).to_pylist())
    return set()
