"""Ask a repaired cache for the photographs of its proof again."""

from pipeline.errors import RequestError
from pipeline.planning.proof import read_truth
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.stages.proof import ask_all, encode_answers, locator_of
from store.domain.proof import PROOF, SUBJECT


def rebuild_proof(context: RebuildContext) -> RebuiltArtifact:
    """Answer the photographs of a proof again, with the artifacts of the build.

    Raises:
        UnavailableError: They are gone or are not the recorded ones.
        StoreError: An artifact that it needs is damaged or does not run here.
    """
    build, options = context.inputs.build, context.inputs.request.proof
    index, tiles, calibration, proof = build.index, build.tiles, build.calibration, build.proof
    if options is None or index is None or tiles is None or calibration is None or proof is None:
        raise UnavailableError("expected a proof in the recorded request, found none")
    path = context.inputs.request.resolve(options.pictures)
    try:
        table = read_truth(path)
    except RequestError as error:
        raise UnavailableError(error.message) from error
    if not table.to_document().items() <= build.inputs["proof"].items():
        raise UnavailableError(f"photographs: expected those of the proof in {path}, found others")
    context.begin("check", (SUBJECT,), proof.key)
    asked = ask_all(
        table,
        locator_of(
            context.artifacts,
            build.inputs,
            engines=dict(build.engines) | dict(build.stand_ins),
            index=index,
            tiles=tiles.table,
            calibration=context.artifacts.read(calibration),
        ),
        area=context.inputs.area(),
        near_m=options.near_m,
        progress=context.inputs.ports.progress,
    )
    return RebuiltArtifact(data=encode_answers(asked), note=f" ({PROOF} asked for again)")
