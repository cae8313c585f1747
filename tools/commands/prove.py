"""`prove`: find the places of photographs whose true place is known, and say how often that was right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import RequestError
from pipeline.planning.proof import read_truth
from pipeline.proof.measure import Shares, count_shares
from pipeline.request.area import area_of_inputs
from pipeline.stages.proof import Asked, ask_all, doubt_warning
from store.base.cache_warning import CacheWarning
from store.cache.view import require_cache
from store.disk.artifacts import Artifacts
from store.trust.go_no_go import ALLOW_UNSIGNED, UNCHECKED
from tools.command import PATH, Answer, Call, parse_measure, print_message, shared_options, trust_options
from tools.commands.query import open_cache, query_engines
from tools.output import proof
from tools.output.progress import shown_progress


@click.command()
@click.argument("truth", type=PATH)
@click.option(
    "--near",
    type=parse_measure,
    metavar="RADIUS_M",
    help="Search only so many metres around a guess, which is off by up to 0.7 of them.",
)
@trust_options
@shared_options()
def prove(
    call: Call, *, truth: Path, near: float | None, trusted_key: tuple[str, ...], unsigned: bool
) -> Answer:
    """Find the places of the photographs in TRUTH, and say how often the cache is right.

    TRUTH is a CSV file with the columns file, lon, lat, altitude_m or gsd_m, and heading_deg.
    """
    if near is not None and near <= 0:
        raise RequestError(
            f"expected --near above 0, found {near:g}", hint="pass a radius in metres, such as --near 200"
        )
    require_cache(call.layout())
    trusted_keys = call.trusted_keys(trusted_key, unsigned=unsigned)
    if trusted_keys is ALLOW_UNSIGNED:
        print_message(f"c10: note: {UNCHECKED}")
    with open_cache(call.root, trusted_keys) as cache:
        if not cache.manifest.levels:
            raise RequestError(
                "expected a cache of chunks of ground, found one of tiles, which recognises crops of its imagery",
                hint="build it with altitude_m or [chunks] in the request",
            )
        ref, artifacts = cache.manifest.area, Artifacts(call.layout())
        area = area_of_inputs(cache.manifest.inputs, None if ref is None else artifacts.read(ref))
        table = read_truth(truth)
        locator = cache.locator(engines=query_engines(call.root, cache))
        with shown_progress() as progress:
            asked = ask_all(
                table,
                locator,
                area=area,
                near_m=near,
                progress=progress,
            )
    told = {"photographs-outside": table.outside_warning(area), "doubtful-answer": doubt_warning(asked)}
    warnings = [CacheWarning(kind=kind, message=text) for kind, text in told.items() if text is not None]
    for warning in warnings:
        print_message(f"c10: warning: {warning}")
    shares = count_shares([each.found for each in asked])
    return Answer(
        document={**_document(asked, shares), "warnings": [each.to_document() for each in warnings]},
        lines=proof.lines([each.found for each in asked], shares),
    )


def _document(asked: Sequence[Asked], shares: Shares) -> dict[str, Any]:
    right, better = shares.better_half
    return {
        "pictures": shares.pictures,
        "within": proof.within_shares(shares),
        "median_m": None if shares.median_mm is None else shares.median_mm / 1000,
        "margin": {
            "better_half_right": round(right / better, 6) if better else None,
            "table": [
                [least / 1_000_000, round(right / above, 6)] for least, above, right in shares.thresholds
            ],
        },
        "answers": [_answer(each) for each in asked],
    }


def _answer(asked: Asked) -> dict[str, Any]:
    errors = [error / 1000 for error in asked.found.errors_mm]
    margin = asked.found.margin_ppm
    return {
        "file": asked.photograph.file,
        "outside": asked.found.outside,
        "error_m": errors[0] if errors else None,
        "margin": None if margin is None else margin / 1_000_000,
        "candidates": [
            {
                "lon": round(each.longitude, 7),
                "lat": round(each.latitude, 7),
                "score": round(each.score, 6),
                "level": each.level,
                "side_m": round(each.side_m, 2),
                "error_m": error,
            }
            for each, error in zip(asked.answer.candidates, errors, strict=True)
        ],
    }
