import contextlib
import copy
import dataclasses
import os
import threading
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ErrorKind, Problem, RequestError
from pipeline.request import files
from pipeline.request.geometry import contains, degrees_to_e7, metres_to_mm, split_at_antimeridian
from pipeline.request.options import (
    EngineOptions,
    ModelRole,
    ModelSpec,
    Precision,
    SectorClassification,
    ShapeProfile,
    TileOptions,
    TooOldPolicy,
)
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from store.base.cache_warning import CacheWarning

BOX = "bbox = [-118.3198, 36.5611, -118.2607, 36.5930]"
MODEL = 'onnx = "builtin:place"'


def parse(text: str) -> BuildRequest:
    return BuildRequest.parse(text, base=Path("/somewhere"))


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(RequestError) as caught:
        parse(text)
    return caught.value.problems


def only_problem(text: str) -> str:
    (problem,) = problems(text)
    return str(problem)


def test_a_valid_request(request_text):
    request = parse(request_text())
    assert request.sector is SectorClassification.STABLE_REAR
    assert request.bbox_e7 == (-1_183_198_000, 365_611_000, -1_182_607_000, 365_930_000)
    assert request.origin_e7 == (-1_182_923_000, 365_785_000)
    assert request.altitude_mm == 4_421_000
    assert request.bbox == (-118.3198, 36.5611, -118.2607, 36.593)
    assert request.engine.backend == "onnxruntime"
    assert request.max_age_days == 365
    assert [model.builtin for model in request.models] == ["place"]
    assert request.resolve("camera.json") == Path("/somewhere/camera.json")
    assert request.warnings == ()


def test_every_optional_key(request_text):
    text = request_text(
        (
            'source = "whitney.pmtiles"',
            (
                'source = "t/{z}/{x}/{y}.jpg"\non_bad = "skip"\ncaptured = 2026-03-01\nas_of = 2026-04-01\n'
                'max_age_days = 30\ntoo_old = "exclude"\nunknown_age = "fail"'
            ),
        ),
        (
            'precision = "fp32"',
            'precision = "bf16"\ntarget = "sm_87"\nbatch = 8\nworkspace_mb = 512\ntimeout_s = 60\ntf32 = true',
        ),
        (
            MODEL,
            (
                'onnx = "place.onnx"\ninput = "image"\noutput = "vector"\nsize = [224, 320]\nmean = [123.675, 116.28, 103]\n'
                'std = [58.4, 57.1, 57.4]\ncolour = "bgr"\nlayout = "nhwc"\n'
                "profile = {min = [1, 3, 8, 8], opt = [4, 3, 8, 8], max = [8, 3, 8, 8]}"
            ),
        ),
        ('kind = "auto"', 'kind = "ivf-pq"\nm = 16\nef = 64\nstorage = "fp16"\nnprobe = 8'),
    )
    request = parse(text + "\n[coverage]\nmin_fraction = 0.95\n[checks]\nparity = 0.9999\nrecall = 1\n")
    assert request.tiles.captured == date(2026, 3, 1)
    assert request.tiles.too_old is TooOldPolicy.EXCLUDE
    assert request.max_age_days == 30
    assert request.engine.timeout_s == 60.0
    assert request.engine.tf32 is True
    (model,) = request.models
    assert model.size == (224, 320)
    assert model.mean == (123.675, 116.28, 103.0)
    assert model.profile is not None
    assert model.profile.opt == (4, 3, 8, 8)
    assert model.builtin is None
    assert request.index.nprobe == 8
    assert request.coverage.min_fraction == 0.95
    assert request.checks.recall == 1.0


def test_a_request_made_in_python_meets_the_same_rules(request_text):
    parsed = parse(request_text())
    made = BuildRequest(
        flight_id="demo-001",
        sector="stable_rear",
        bbox=[-118.3198, 36.5611, -118.2607, 36.5930],
        zoom=[13, 15],
        origin=(-118.2923, 36.5785, 4421),
        calibration=Path("camera.json"),
        tiles=TileOptions(source="whitney.pmtiles"),
        models=[ModelSpec(name="place", role=ModelRole.DESCRIPTOR, onnx="builtin:place")],
        base="/somewhere",
    )
    assert made == parsed
    assert dataclasses.replace(made, zoom=(13, 14)).zoom == (13, 14)
    assert copy.deepcopy(made) == made
    with pytest.raises(RequestError) as caught:
        dataclasses.replace(made, zoom=(15, 13), flight_id="")
    assert [problem.key for problem in caught.value.problems] == ["flight_id", "zoom"]
    with pytest.raises(RequestError, match=r"^tiles\.max_age_days: expected a whole number"):
        TileOptions(source="x.pmtiles", max_age_days=0)


def test_the_imagery_is_a_path_or_a_list_of_paths(request_text):
    text = request_text(('source = "whitney.pmtiles"', 'source = ["b.tif", "a.tif"]'))
    request = BuildRequest.parse(text, base=Path("/somewhere"))
    assert request.tiles.source == ("b.tif", "a.tif")
    assert request.tiles.source_name == "b.tif and 1 more"
    assert BuildRequest.parse(to_toml(request), base=Path("/somewhere")) == request
    assert TileOptions(source=["one.tif"]).source_name == "one.tif"
    for wrong in ([], ["a.tif", "a.tif"], [""], [7], 7, {"a": "b"}):
        with pytest.raises(RequestError, match=r"^tiles\.source: expected"):
            TileOptions(source=wrong)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'flight_id = "demo-001"',
            'flight_id = ""',
            "flight_id: expected printable text of 1 to 128 characters, found ''",
        ),
        (
            'flight_id = "demo-001"',
            f'flight_id = "{"f" * 129}"',
            "flight_id: expected printable text of 1 to 128",
        ),
        ('flight_id = "demo-001"', 'flight_id = "a\\nb"', "flight_id: expected printable text"),
        ('flight_id = "demo-001"', "", "flight_id: expected a value, found none; add this key"),
        (
            'sector = "stable_rear"',
            'sector = "stable_read"',
            "found 'stable_read'; did you mean 'stable_rear'?",
        ),
        ('precision = "fp32"', 'precision = "FP32"', "found 'FP32'; did you mean 'fp32'?"),
        (
            "zoom = [13, 15]",
            "zoom = [15, 13]",
            "zoom: expected the lowest zoom first, found [15, 13]; write [13, 15]",
        ),
        (
            "zoom = [13, 15]",
            "zoom = [13, 26]",
            "zoom: expected [lowest, highest] zoom, whole numbers from 0 to 25",
        ),
        ("zoom = [13, 15]", "zoom = [true, 15]", "found [true, 15]"),
        ("zoom = [13, 15]", "zoom = [13.0, 15]", "found [13.0, 15]"),
        ("zoom = [13, 15]", "zoom = 13", "found 13"),
        (
            BOX,
            "bbox = [-118.3, nan, -118.2, 36.6]",
            "bbox: expected [west, south, east, north] in finite degrees",
        ),
        (BOX, "bbox = [-118.3, -inf, -118.2, 36.6]", "in finite degrees"),
        (BOX, "bbox = [-118.3, true, -118.2, 36.6]", "in finite degrees"),
        (BOX, 'bbox = [-118.3, "36", -118.2, 36.6]', "in finite degrees"),
        (BOX, "bbox = [-118.3, 36.5, -118.2]", "in finite degrees"),
        (BOX, "bbox = [-118.3, 1e999, -118.2, 36.6]", "in finite degrees"),
        (BOX, "bbox = [-118.3, 36.6, -118.2, 36.5]", "bbox: expected south less than north"),
        (
            BOX,
            "bbox = [-118.3, 36.5, -118.2, 85.06]",
            "Web Mercator range, -85.0511287798066 to 85.0511287798066",
        ),
        (BOX, "bbox = [-118.3, 36.5, -118.3, 36.6]", "bbox: expected a box of some width; this one is empty"),
        (BOX, "bbox = [180, 36.5, -180, 36.6]", "this one is empty"),
        (BOX, "bbox = [-118.3, 36.5, 181, 36.6]", "longitudes from -180 to 180"),
        ("4421.0", "99999.0", "altitude -1000 to 30000 m"),
        ("-118.2923, 36.5785", "36.5785, -118.2923", "the order is longitude, latitude, altitude"),
        (
            'calibration = "camera.json"',
            "calibration = 3",
            "calibration: expected the path of a JSON file, found 3",
        ),
        (
            'calibration = "camera.json"',
            "calibration = {fx = 1.5, ok = true}",
            "expected the path of a JSON file, found {fx = 1.5, ok = true}; write the table to a file and name it",
        ),
        ('onnx = "builtin:place"', "onnx = 3", "onnx: expected the path of an ONNX file"),
        ('calibration = "camera.json"', 'calibration = "a\\u0000b"', "calibration: expected printable text"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\nmax_age = 3', "did you mean 'max_age_days'?"),
        (
            'source = "whitney.pmtiles"',
            'source = "x.pmtiles"\nmax_age_days = 0',
            "a whole number from 1 to 36500",
        ),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\nas_of = "2026-01-01"', "without quotes"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\ncaptured = "2026-01-01"', "remove the quotes"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\ncaptured = "1.9.2026"', "write year-month-day"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\ncaptured = 10:00:00', "found 10:00:00"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\nas_of = 2026-01-01T10:00:00', "without a time"),
        ('source = "whitney.pmtiles"', 'source = "x.pmtiles"\ncaptured = 7', "or the path of a CSV file"),
        ('backend = "onnxruntime"', 'backend = "tensort"', "did you mean 'tensorrt'?"),
        ('precision = "fp32"', 'precision = "int8"', 'one of "fp32", "fp16", "bf16"'),
        ('precision = "fp32"', "tf32 = 1", "engine.tf32: expected true or false, found 1"),
        (
            'precision = "fp32"',
            "batch = true",
            "engine.batch: expected a whole number from 1 to 4096, found true",
        ),
        ('precision = "fp32"', "timeout_s = nan", "engine.timeout_s: expected a finite number"),
        ('name = "place"', 'name = "../place"', "models[0].name: expected 1 to 64 of a-z"),
        ('name = "place"', 'name = "Place"', "models[0].name: expected 1 to 64 of a-z"),
        (
            'role = "descriptor"',
            'role = "auxiliary"',
            'at least one of them with role = "descriptor", found none',
        ),
        (MODEL, 'onnx = "builtin:"', "models[0].onnx"),
        (
            MODEL,
            MODEL + "\nsize = [8, 224]",
            "models[0].size: expected [height, width] in pixels, each a whole number",
        ),
        (MODEL, MODEL + "\nstd = [1, 0, 1]", "models[0].std"),
        (MODEL, MODEL + "\nmean = [1, 2]", "models[0].mean"),
        (MODEL, MODEL + '\nlayout = "chw"', "models[0].layout"),
        (MODEL, MODEL + "\nprofile = {min = [2], opt = [1], max = [3]}", "expected min <= opt <= max"),
        (MODEL, MODEL + "\nprofile = {min = [1], opt = [1, 1], max = [3]}", "equally many axes"),
        (MODEL, MODEL + "\nprofile = {min = [1], opt = [1]}", "profile.max: expected a value"),
        (MODEL, MODEL + "\nprofile = [1, 2, 3]", "expected a table"),
        ('kind = "auto"', 'kind = "hnws"', "did you mean 'hnsw'?"),
        ('kind = "auto"', "ef = 4", "index.ef"),
        ('flight_id = "demo-001"', 'flight_id = "d"\nbase = "/etc"', "base: expected a known key"),
        ('flight_id = "demo-001"', 'flight_id = "d"\nbbox_e7 = [1, 2, 3, 4]', "did you mean 'bbox'?"),
        ('flight_id = "demo-001"', 'flight_id = "d"\noverlap = 0.8', "in [chunks] or in [[chunks.level]]"),
        (
            'precision = "fp32"',
            "captured = 2026-01-01",
            "engine.captured: expected a known key, found 'captured'; it goes in [tiles]",
        ),
        (
            MODEL,
            MODEL + "\naltitude_m = 120",
            "models[0].altitude_m: expected a known key, found 'altitude_m'; it goes above",
        ),
    ],
)
def test_one_wrong_thing_is_one_sentence(request_text, old, new, message):
    text = only_problem(request_text((old, new)))
    assert message in text
    assert "\n" not in text
    assert "expected" in text
    assert "found" in text


def test_values_are_shown_as_in_the_file():
    with pytest.raises(RequestError, match=r"^engine\.backend: expected one of .*, found 'fp32'"):
        EngineOptions(backend=Precision.FP32)
    with pytest.raises(RequestError, match=r"^models\.name: expected .*, found '/a'; correct models.name"):
        ModelSpec(name=Path("/a"), role="descriptor", onnx="m.onnx")
    with pytest.raises(RequestError, match=r"found 2026-01-02; correct "):
        EngineOptions(tf32=date(2026, 1, 2))
    with pytest.raises(RequestError, match=r"found .{80}; correct "):
        EngineOptions(target="t" * 999)


def test_profiles(request_text):
    profile = ShapeProfile(min=[1, 3], opt=(2, 3), max=(4, 3))
    assert ModelSpec(name="m", role="auxiliary", onnx="m.onnx", profile=profile).profile == profile
    for shape in ("3", "[]", "[0]", "[true]", "[1, 2, 3, 4, 5, 6, 7, 8, 9]"):
        text = request_text((MODEL, MODEL + f"\nprofile = {{min = {shape}, opt = [1], max = [1]}}"))
        assert "a list of 1 to 8 whole numbers" in only_problem(text)


def test_libraries_of_operators(request_text):
    assert EngineOptions(plugins=["a.so", "b.so"]).plugins == ("a.so", "b.so")
    for found, message in (
        ('"a.so"', "at most 16 different paths"),
        ("[3]", "at most 16 different paths"),
        (str([f"{number}.so" for number in range(17)]), "at most 16 different paths"),
        ('["a.so", "b.so", "a.so"]', "name each library once"),
    ):
        text = request_text(('precision = "fp32"', f'precision = "fp32"\nplugins = {found}'))
        assert message in only_problem(text)


def test_tables_of_the_wrong_type(request_text):
    assert only_problem(request_text(('[index]\nkind = "auto"', "[coverage]\nmin_fraction = 2"))).startswith(
        "coverage.min_fraction: expected a finite number from 0 to 1, found 2"
    )
    text = request_text(('[index]\nkind = "auto"', "")).replace("flight_id", "index = 3\nflight_id", 1)
    assert only_problem(text) == "index: expected a table, found 3"
    text = request_text().partition("[[models]]")[0]
    assert only_problem(text) == "models: expected a value, found none; add this key"
    assert only_problem("models = 3\n" + text).startswith("models: expected 1 to 64 models")
    assert only_problem("models = [3]\n" + text) == "models[0]: expected a table, found 3"


def test_all_problems_come_at_once(request_text):
    text = request_text(
        ("zoom = [13, 15]", "zoom = [15, 13]\nzom = 1"),
        ('"fp32"', '"fp31"'),
        ('"place"', '"PLACE"'),
        (BOX, ""),
    )
    with pytest.raises(RequestError) as caught:
        BuildRequest.parse(text, base=Path(), name="flight.toml")
    assert {p.key for p in caught.value.problems} == {
        "zoom",
        "zom",
        "engine.precision",
        "models[0].name",
        "bbox",
    }
    first, *rest = str(caught.value).splitlines()
    assert first == "flight.toml: 5 problems:"
    assert len(rest) == 5


def test_models_must_differ_and_one_describes(request_text):
    second = '\n[[models]]\nname = "{}"\nrole = "{}"\nonnx = "m.onnx"\n'
    for role in ("auxiliary", "descriptor"):
        request = parse(request_text() + second.format("other", role))
        assert [str(model.role) for model in request.models] == ["descriptor", role]
    assert "'place' more than once" in only_problem(request_text() + second.format("place", "auxiliary"))


@pytest.mark.parametrize(
    "line",
    [*(f"weight = {value}" for value in ("0", "-1", "inf", "nan", "1e-7", "true")), "normalise = 1"],
)
def test_weights_are_finite_and_above_0(request_text, line):
    model = f'\n[[models]]\nname = "other"\nrole = "descriptor"\nonnx = "m.onnx"\n{line}\n'
    assert only_problem(request_text() + model).startswith(f"models[1].{line.split()[0]}: expected ")


def test_what_is_only_for_descriptors(request_text):
    model = '\n[[models]]\nname = "other"\nrole = "{}"\nonnx = "m.onnx"\nweight = 0.5\nnormalise = true\n'
    other = parse(request_text() + model.format("descriptor")).models[1]
    assert (other.weight_ppm, other.normalise) == (500_000, True)
    assert [each.key for each in problems(request_text() + model.format("auxiliary"))] == [
        "models[1].weight",
        "models[1].normalise",
    ]


def test_warnings(request_text):
    scale_to_int = parse(
        request_text((MODEL, MODEL + "\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"))
    )
    assert scale_to_int.warnings[0].hint == "multiply both by 255"
    across = parse(
        request_text((BOX, "bbox = [179.5, -18, -179.5, -16]"), ("-118.2923, 36.5785", "179.9, -17.0"))
    )
    assert across.bbox_e7[0] > across.bbox_e7[2]
    assert across.warnings == ()


@pytest.mark.parametrize(
    ("backend", "ignored"), [("onnxruntime", True), ("openvino", True), ("tensorrt", False)]
)
def test_options_that_the_backend_ignores_are_a_warning(request_text, backend, ignored):
    request = parse(
        request_text((MODEL, 'onnx = "m.onnx"\nprofile = {min = [1, 8], opt = [4, 8], max = [8, 8]}'))
        + '\n[[models]]\nname = "other"\nrole = "auxiliary"\nonnx = "m.onnx"\n'
    )
    request = dataclasses.replace(request, engine=EngineOptions(backend=backend, tf32=True, workspace_mb=10))
    expected = tuple(
        CacheWarning(
            kind="ignored-option",
            message=f"{name}: it means nothing to the backend {backend}",
            hint="remove it",
        )
        for name in ("engine.workspace_mb", "engine.tf32", "models.place.profile")
    )
    assert request.warnings == (expected if ignored else ())


def test_sector_bounds_the_age(request_text):
    assert parse(request_text(("stable_rear", "active_conflict"))).max_age_days == 180


def test_loading_a_file(tmp_path, request_text):
    file = tmp_path / "flight.toml"
    file.write_text("\ufeff" + request_text(), encoding="utf-8")
    assert BuildRequest.load(file).base == tmp_path
    assert BuildRequest.load(str(file)) == BuildRequest.load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "bytes that are not UTF-8 at offset 0"),
        (b"#" * (1 << 20) + b"\n", "more than 1,048,576 bytes"),
        (b"flight_id = ", "expected TOML"),
        (b"a = " + b"[" * 100_000, "expected TOML"),
        (b"a = " + b"1" * 10_000, "expected TOML"),
        (b"", "problems"),
    ],
)
def test_files_that_are_no_request(tmp_path, content, message):
    file = tmp_path / "flight.toml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        BuildRequest.load(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert caught.value.hint


def test_paths_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", Path("a\0b")):
        with pytest.raises(RequestError) as caught:
            BuildRequest.load(path)
        assert caught.value.kind is ErrorKind.REQUEST_UNREADABLE
        assert caught.value.hint


@pytest.fixture
def pipe():
    """The reading end of a pipe under a name of this process, and what writes to it and closes it."""
    reading, writing = os.pipe()

    def give(content, *, close=True):
        # More than a pipe holds is written while it is read.
        def write():
            with contextlib.suppress(BrokenPipeError):
                view = memoryview(content)
                while view:
                    view = view[os.write(writing, view) :]
            if close:
                os.close(writing)

        thread = threading.Thread(target=write)
        thread.start()
        threads.append(thread)
        return f"/dev/fd/{reading}"

    threads = []
    yield give
    os.close(reading)
    for thread in threads:
        thread.join()
    with contextlib.suppress(OSError):
        os.close(writing)


def test_a_pipe_of_the_shell_is_read_like_a_file(tmp_path, monkeypatch, request_text, pipe):
    monkeypatch.chdir(tmp_path)
    text = request_text() + "# " + "x" * 200_000 + "\n"
    file = tmp_path / "flight.toml"
    file.write_text(text)
    found = BuildRequest.load(pipe(text.encode()))
    assert found == BuildRequest.load(file)
    assert found.base == tmp_path, "relative paths start from the current folder"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "problems"), (b"\xff\xfe", "UTF-8"), (b"#" * (2 << 20), "more than 1,048,576 bytes")],
)
def test_a_pipe_that_gives_no_request(content, message, pipe):
    with pytest.raises(RequestError) as caught:
        BuildRequest.load(pipe(content))
    assert message in str(caught.value)


def test_a_silent_pipe_is_given_up(monkeypatch, pipe):
    monkeypatch.setattr(files, "SILENCE_S", 0.05)
    with pytest.raises(RequestError, match="gave nothing") as caught:
        BuildRequest.load(pipe(b"flight_id = ", close=False))
    assert caught.value.kind is ErrorKind.REQUEST_UNREADABLE


def test_a_descriptor_that_is_neither_file_nor_pipe(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(RequestError, match="neither a regular file nor a pipe"):
            BuildRequest.load(f"/dev/fd/{descriptor}")
    finally:
        os.close(descriptor)


def test_degrees_are_rounded_once_from_the_decimal():
    assert degrees_to_e7(Decimal("0.00000005")) == 0
    assert degrees_to_e7(Decimal("0.00000015")) == 2
    assert degrees_to_e7(Decimal("-0.00000025")) == -2
    assert degrees_to_e7(0.00000015) == 2
    assert degrees_to_e7(180) == 1_800_000_000
    assert metres_to_mm(0.0005) == 0
    assert metres_to_mm(Decimal("4421.0015")) == 4_421_002


def test_a_file_is_rounded_as_written(request_text):
    # As floats these two are the same number, and half a unit cannot be ignored from slightly more.
    text = request_text((BOX, "bbox = [-118.31980005, 36.56110015000000000001, -118.2607, 36.5930]"))
    assert parse(text).bbox_e7[:2] == (-1_183_198_000, 365_611_002)


@given(st.integers(-1_800_000_000, 1_800_000_000))
def test_printed_degrees_come_back(value):
    assert degrees_to_e7(value / 10_000_000) == value
    assert degrees_to_e7(Decimal(value).scaleb(-7)) == value


@given(st.integers(-180, 180), st.integers(-180, 180), st.integers(-180, 180), st.integers(-5, 5))
def test_a_split_box_holds_the_same_points(west, east, longitude, latitude):
    box = (west, -3, east, 3)
    inside = -3 <= latitude <= 3 and (
        west <= longitude <= east if west < east else longitude >= west or longitude <= east
    )
    scale = 10_000_000
    scale_to_int = (west * scale, -3 * scale, east * scale, 3 * scale)
    touches_seam = abs(longitude) == 180 or west == 180 or east == -180
    if west != east and not touches_seam:
        assert contains(scale_to_int, longitude * scale, latitude * scale) == inside
    assert all(half[0] < half[2] for half in split_at_antimeridian(scale_to_int)), box


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([f.name for f in dataclasses.fields(BuildRequest) if f.init]), junk)
def test_no_value_escapes_the_rules(field, value):
    good = {
        "flight_id": "f",
        "sector": "stable_rear",
        "bbox": (1, 2, 3, 4),
        "zoom": (1, 2),
        "origin": (1, 2, 3),
        "calibration": "c",
        "tiles": TileOptions(source="x.pmtiles"),
        "models": [ModelSpec(name="m", role="descriptor", onnx="m.onnx")],
    }
    try:
        made = BuildRequest(**(good | {field: value}))
    except RequestError as error:
        made = error
    keys = (
        {problem.key.partition(".")[0] for problem in made.problems}
        if isinstance(made, RequestError)
        else {field}
    )
    assert keys == {field}
