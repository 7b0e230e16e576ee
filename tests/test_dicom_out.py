"""DICOM objects lie where their source lies, say what the prediction says, and invent nothing."""

import copy
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import UID

import dicom_sources
from dicom_files import SERIES, STUDY
from hilum import predict_to_dicom
from hilum.cli import main
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.files import machine_id
from hilum.measuring.abstaining import Band
from hilum.measuring.calibration import Calibration
from hilum.predicting import Predictor
from hilum.predicting.explain.heat_map import HeatMap
from hilum.preparing import segment_lungs
from hilum.reading.reader import read
from hilum.serving.dicom_out.identity import RESEARCH
from hilum.serving.dicom_out.page_picture import drawable
from hilum.serving.dicom_out.parametric_map import on_planes, parametric_map
from hilum.serving.dicom_out.references import references_of
from hilum.serving.dicom_out.write import dicom_objects, result_of
from hilum.settings.explain import ExplainConfig
from hilum.settings.run import ModelConfig, Recipe
from hilum.volume import Volume

NETWORK = ModelConfig(depth=10, width=2, stem="small")
LUNGS = Recipe(region="lungs", size=(12, 12, 12), spacing_mm=(25.0, 25.0, 25.0))
POINT = Recipe(region="point", size=(8, 8, 8), spacing_mm=(9.0, 9.0, 9.0))
NAMES = ("healthy", "mass")
OBJECT = "Object of the same result"


def model(folder: Path, recipe: Recipe = LUNGS, *, classes=NAMES, multi_label=False, decision=None) -> Predictor:
    """A model with random weights that answers for every scan."""
    torch.manual_seed(0)
    each = (decision or Decision(threshold=0.5, rule="by hand"),) * (len(classes) if multi_label else 1)
    decisions = Decisions(classes=classes, multi_label=multi_label, each=each)
    save_model(folder, build(NETWORK, recipe, len(classes)), ModelCard(
        model=NETWORK, recipe=recipe, decisions=decisions, training={}, version="0.1.0"))  # fmt: skip
    return Predictor(folder, device="cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The source, objects and what they tell of each kind of series; made when it is first asked for."""
    known, folder = {}, tmp_path_factory.mktemp("results")

    def of(kind):
        if kind not in known:
            scan = dicom_sources.write_source(folder / kind / "scan", kind)
            recipe = POINT if kind in ("tilted", "multi-frame", "repaired") else LUNGS
            predictor, point = model(folder / kind / "model", recipe), None
            if recipe is POINT:
                volume = read(scan)
                point = volume.index_to_mm(np.array(volume.shape) * (0.6, 0.45, 0.3))
            out = folder / kind / "out"
            made = predict_to_dicom(predictor, scan, out, point_mm=point)
            known[kind] = scan, predictor, point, made, {n: pydicom.dcmread(out / n) for n in made.files}, out
        return known[kind]

    return of


def errors_of(file: Path) -> list[str]:
    """Errors that dicom3tools' validator finds."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not here (Debian's dicom3tools)")
    done = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_the_validator_finds_no_error_but_the_laterality_that_it_always_asks(results, kind):
    *_, made, _, out = results(kind)
    assert set(made.files) == {"report.dcm", "segmentation.dcm", "map.dcm", "page.dcm"}
    for name in ("report.dcm", "segmentation.dcm"):
        assert errors_of(out / name) == [], name
    for name in ("map.dcm", "page.dcm"):
        assert all("Laterality" in line for line in errors_of(out / name)), name


def instances(scan: Path) -> dict[str, list[np.ndarray]]:
    """Position of each frame by SOPInstanceUID, as pydicom reads the source."""
    found = {}
    for path in sorted(scan.iterdir()):
        if path.suffix != ".dcm":
            continue
        header = pydicom.dcmread(path, stop_before_pixels=True)
        frames = header.get("PerFrameFunctionalGroupsSequence")
        if frames:
            places = [item.PlanePositionSequence[0].ImagePositionPatient for item in frames]
        elif "GridFrameOffsetVector" in header:
            normal = np.cross(*np.array(header.ImageOrientationPatient, float).reshape(2, 3))
            places = [np.array(header.ImagePositionPatient) + z * normal for z in header.GridFrameOffsetVector]
        else:
            places = [header.ImagePositionPatient]
        found[str(header.SOPInstanceUID)] = [np.array(place, float) for place in places]
    return found


def frames_of(made) -> list[tuple[int, np.ndarray, np.ndarray, str, int | None]]:
    """Segment, LPS mm of each pixel, pixels, and source instance and frame of each frame, as the standard has it."""
    shared = made.SharedFunctionalGroupsSequence[0]
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows_mm, columns_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    row, column = np.mgrid[: made.Rows, : made.Columns]
    found = []
    pixels = made.pixel_array.reshape(-1, made.Rows, made.Columns)
    for item, plane in zip(made.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        first = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        mm = first + row[..., None] * rows_mm * down + column[..., None] * columns_mm * across
        segment = item.get("SegmentIdentificationSequence", [None])[0]
        number = 0 if segment is None else int(segment.ReferencedSegmentNumber)
        uid, frame = "", None
        for derived in item.get("DerivationImageSequence", []):
            source = derived.SourceImageSequence[0]
            uid, frame = str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber")
        found.append((number, mm, plane, uid, frame))
    return found


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_every_voxel_of_the_segmentation_lies_on_its_mask_and_refers_to_its_slice(results, kind):
    scan, predictor, point, _, made, _ = results(kind)
    volume, sources = read(scan), instances(scan)
    lungs = segment_lungs(volume).labels
    sample = predictor.prepare(volume, point_mm=point)
    names = {int(one.SegmentNumber): one.SegmentLabel for one in made["segmentation.dcm"].SegmentSequence}
    assert list(names.values()) == ["Right lung", "Left lung", "Region that the model saw"]
    places = [place for one in sources.values() for place in one]
    frames = frames_of(made["segmentation.dcm"])
    assert len(frames) == 3 * len(places)
    total = dict.fromkeys(names, 0)
    for number, mm, pixels, uid, frame in frames:
        index = volume.mm_to_index(mm)
        voxel = np.rint(index).astype(int)
        assert np.linalg.norm(volume.index_to_mm(voxel) - mm, axis=-1).max() < 0.02
        assert (0, int(voxel.reshape(-1, 3)[0, 0])) not in volume.interpolated
        if number < 3:
            expected = lungs[tuple(np.moveaxis(voxel, -1, 0))] == number
        else:
            seen = sample.mm_to_index(mm)
            expected = ((seen >= -0.5) & (seen <= np.array(sample.shape) - 0.5)).all(axis=-1)
            clear = (np.abs(seen + 0.5).min(axis=-1) > 1e-3) & (
                np.abs(seen - np.array(sample.shape) + 0.5).min(axis=-1) > 1e-3
            )
            expected, pixels = expected[clear], pixels[clear]
        assert np.array_equal(pixels.astype(bool), expected), (number, uid)
        total[number] += int(pixels.sum())
        if kind not in ("offsets", "several-files"):  # their frames cannot all be referred to by number
            place = sources[uid][int(frame or 1) - 1]
            assert np.linalg.norm(place - mm[0, 0]) < 1e-3, (uid, frame)
    assert min(total.values()) > 0
    if kind == "repaired":
        assert len(volume.interpolated) == 1


@pytest.mark.parametrize("kind", ["plain", "tilted", "oblique", "repaired", "big-endian", "prone"])
def test_highdicom_finds_each_segment_by_the_slices_that_it_came_from(results, kind):
    scan, _, _, _, _, out = results(kind)
    found = hd.seg.segread(out / "segmentation.dcm")
    assert [one.meaning for one in found.segmented_property_types][:2] == ["Right lung", "Left lung"]
    volume = read(scan)
    lungs = segment_lungs(volume).labels
    uids = sorted(instances(scan), key=lambda uid: instances(scan)[uid][0][2])
    pixels = found.get_pixels_by_source_instance(source_sop_instance_uids=uids)
    assert pixels.shape[::3] == (len(uids), 3)
    measured = [z for z in range(volume.shape[0]) if (0, z) not in volume.interpolated]
    planes = lungs[measured]
    planes = planes[:, ::-1, ::-1] if kind == "prone" else planes  # as that scanner stores them
    for segment in (1, 2):
        assert np.array_equal(pixels[..., segment - 1].astype(bool), planes == segment)


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_a_map_that_rises_evenly_through_space_does_so_in_its_object_on_measured_slices_alone(results, kind):
    scan, predictor, point, _, made, _ = results(kind)
    found = result_of(predictor, scan, point_mm=point, config=None)
    sample, slope = found.sample, np.array([0.3, -0.7, 0.5])
    index = np.moveaxis(np.indices(sample.shape), 0, -1)
    ramp = (sample.index_to_mm(index) @ slope).astype(np.float32)
    heat_map = HeatMap(values=ramp, spread=None, affine=sample.affine, output="mass", method="occlusion", log_odds=0.0)
    stored = parametric_map(found, references_of(found.source, "1.2.3"), heat_map)
    pixels = np.frombuffer(stored.FloatPixelData, "<f4").reshape(-1, stored.Rows, stored.Columns)
    shared = stored.SharedFunctionalGroupsSequence[0]
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows_mm, columns_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    normal, count = np.cross(across, down), 0
    places = np.array([place for one in instances(scan).values() for place in one])
    row, column = np.mgrid[: stored.Rows, : stored.Columns]
    for item, plane in zip(stored.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        first = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.abs((places - first) @ normal).min() < 1e-3  # on a measured slice
        mm = first + row[..., None] * rows_mm * down + column[..., None] * columns_mm * across
        at = sample.mm_to_index(mm)
        inside = ((at >= 1) & (at <= np.array(sample.shape) - 2)).all(axis=-1)
        assert np.abs(plane[inside] - mm[inside] @ slope).max(initial=0) < 0.05  # of a ramp of 0.9 for each mm
        count += inside.sum()
    assert count > 100
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert heat_map.meaning in made["map.dcm"].ImageComments


def contents(item, keyword: str) -> list:
    """Content items below an item by the meaning of their concept, at any depth."""
    found = []
    for one in item.get("ContentSequence", []):
        if one.get("ConceptNameCodeSequence") and one.ConceptNameCodeSequence[0].CodeMeaning == keyword:
            found.append(one)
        found += contents(one, keyword)
    return found


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_the_report_read_back_by_highdicom_says_what_the_prediction_says(results, kind):
    scan, predictor, point, made, _, out = results(kind)
    report = hd.sr.srread(out / "report.dcm")
    tree = hd.sr.MeasurementReport.from_sequence([report])
    planar = tree.get_planar_roi_measurement_groups()
    whole = tree.get_image_measurement_groups()
    assert (len(planar), len(whole)) == ((2, 0) if point is not None else (0, 2))
    comments = [one.TextValue for one in contents(report, "Comment")]
    assert any("Threshold 0.500: by hand." in one for one in comments)
    assert any(one.startswith("Point given by the user") for one in comments) == (point is not None)
    for group, (name, probability) in zip(planar or whole, made.prediction.probabilities.items(), strict=True):
        assert group.finding_type.meaning == name
        (measured,) = group.get_measurements()
        assert (measured.name.value, measured.name.scheme_designator) == ("122157", "DCM")
        assert (measured.unit.value, measured.unit.scheme_designator) == ("1", "UCUM")
        assert measured.value == pytest.approx(probability, abs=1e-12)
        assert group.tracking_uid.startswith("2.25.")
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert "111047" not in str(report)
    (decision,) = contents(report, "Decision")
    assert decision.TextValue == made.prediction.decision
    assert [one.TextValue for one in contents(report, "Finding about the scan")] == [
        f"{one.code} ({one.severity}): {one.message}" for one in made.prediction.findings
    ]
    assert contents(report, "Algorithm Parameters")[0].TextValue.startswith(f"Model: digest {predictor.digest}")
    referred = {
        str(one.ReferencedSOPInstanceUID)
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    others = {uid for name, uid in made.files.items() if name != "report.dcm"}
    assert referred == set(instances(scan)) | others
    named = {str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in contents(report, OBJECT)}
    assert named == others


@pytest.mark.parametrize("kind", ["tilted", "multi-frame", "repaired"])
def test_the_circle_lies_on_the_slice_and_pixel_of_the_point(results, kind):
    scan, _, point, _, made, _ = results(kind)
    (region, *_) = contents(made["report.dcm"], "Image Region")
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    places = instances(scan)[str(image.ReferencedSOPInstanceUID)]
    first = places[int(image.get("ReferencedFrameNumber", 1)) - 1]
    x, y, x_edge, y_edge = region.GraphicData
    _, affine = dicom_sources.planes_of(kind)
    down, across = affine[:3, 1], affine[:3, 2]
    mm = first + (y - 0.5) * down + (x - 0.5) * across
    normal = np.cross(across, down) / np.linalg.norm(np.cross(across, down))
    away = np.array(point) - mm
    assert np.linalg.norm(away - (away @ normal) * normal) < 0.02  # at right angles to the slice
    nearest = min(np.abs((np.array(point) - place) @ normal) for one in instances(scan).values() for place in one)
    assert abs(away @ normal) == pytest.approx(nearest, abs=1e-3)
    assert np.hypot((x_edge - x) * np.linalg.norm(across), (y_edge - y) * np.linalg.norm(down)) == pytest.approx(
        5, rel=1e-4
    )
    assert region.GraphicType == "CIRCLE"


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_dcmtk_reads_the_report_and_the_objects(results, kind):
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump is not here (Debian's dcmtk)")
    *_, made, _, out = results(kind)
    done = subprocess.run(["dsrdump", "+U8", str(out / "report.dcm")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, probability in made.prediction.probabilities.items():
        assert f'"{name}")>' in done.stdout
        assert f'"{probability:.8f}'[:9] in done.stdout
    assert done.stdout.count('"Probability")') == 2
    for name in made.files:
        dumped = subprocess.run(["dcmdump", "+P", "SeriesDescription", str(out / name)], capture_output=True, text=True)
        assert RESEARCH in dumped.stdout


def elements(dataset, path=()):
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item, (*path, element.keyword))
        else:
            yield path, element


@pytest.mark.parametrize("kind", dicom_sources.KINDS)
def test_no_object_has_an_attribute_of_the_patient_or_study_that_the_source_did_not_have(results, kind):
    scan, *_, made, _ = results(kind)
    source = pydicom.dcmread(next(scan.iterdir()), stop_before_pixels=True)
    for name, one in made.items():
        for path, element in elements(one):
            of_study = element.keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber")
            of_patient = element.tag.group == 0x0010 or of_study
            if of_patient and element.value not in ("", None):
                assert not path, (name, path, element)
                assert str(element.value) == str(source[element.tag].value), (name, element)
        assert one.StudyInstanceUID == STUDY
        assert one.FrameOfReferenceUID == f"{STUDY}.9" if name in ("segmentation.dcm", "map.dcm") else True
        assert one.SeriesInstanceUID != SERIES
        assert str(one.PatientName) == "Müller^Jörg"


def test_what_the_standard_does_not_allow_is_left_blank_and_said(tmp_path):
    with pydicom.config.disable_value_validation():
        scan = dicom_sources.write_source(
            tmp_path / "scan", "plain", PatientBirthDate="unknown", PatientSex="m", StudyTime="10:11:12",
            PatientName=["Doe^Jane", "Roe^Jane"], SliceThickness=None,
        )  # fmt: skip
    made = predict_to_dicom(model(tmp_path / "model"), scan, tmp_path / "out", maps=False)
    for name in made.files:
        one = pydicom.dcmread(tmp_path / "out" / name)
        assert (one.PatientName, one.PatientBirthDate, one.PatientSex, one.StudyTime) == ("", "", "", "101112")
        assert one.PatientID == "P-1"
        assert all("Laterality" in line for line in errors_of(tmp_path / "out" / name)), name
    comments = [one.TextValue for one in contents(pydicom.dcmread(tmp_path / "out" / "report.dcm"), "Comment")]
    assert any("PatientName, PatientBirthDate, PatientSex" in one for one in comments)


def test_two_files_with_one_instance_uid_are_refused_before_anything_is_computed(tmp_path, capsys):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    first, second = sorted(scan.iterdir())[:2]
    header = pydicom.dcmread(second)
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = pydicom.dcmread(first).SOPInstanceUID
    header.save_as(second)
    model(tmp_path / "model")
    run = ["predict", str(tmp_path / "model"), str(scan), "--device", "cpu", "--dicom", str(tmp_path / "out")]
    assert main(run) == 1
    error = capsys.readouterr().err
    assert "two share one" in error
    assert SERIES not in error
    assert error.count("\n") == 1


def test_a_stated_prevalence_and_a_given_mask_are_said(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    calibration = Calibration(prevalence=(0.8, 0.2), rule="on 50 cases")
    decision = Decision(threshold=0.5, rule="Youden", calibration=calibration)
    folder = model(tmp_path / "model", decision=decision).folder
    volume = read(scan)
    mask = Volume(voxels_hu=segment_lungs(volume).labels.astype(np.int16), affine=volume.affine)
    mask.write(tmp_path / "mask.nii.gz")
    rare = Predictor(folder, device="cpu", prevalence=[0.01])
    predict_to_dicom(rare, scan, tmp_path / "out", maps=False, mask=tmp_path / "mask.nii.gz")
    comments = [one.TextValue for one in contents(pydicom.dcmread(tmp_path / "out" / "report.dcm"), "Comment")]
    assert any("Youden; moved from 0.5 with the prevalence" in one for one in comments)
    assert any("cases of which 1 % have it" in one for one in comments)
    assert any("a mask that was given" in one for one in comments)
    segments = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm").SegmentSequence
    assert [one.SegmentAlgorithmType for one in segments] == ["SEMIAUTOMATIC", "SEMIAUTOMATIC", "AUTOMATIC"]
    assert "user gave" in segments[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName
    assert errors_of(tmp_path / "out" / "segmentation.dcm") == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount")
def test_a_folder_may_be_a_file_system_of_its_own_and_what_a_killed_call_left_goes(tmp_path):
    scan, out = dicom_sources.write_source(tmp_path / "scan", "plain"), tmp_path / "mounted"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(out)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for pid in (999999, os.getpid()):  # in a container every process may have one number
            left = out / f".new.{pid}.{machine_id()}"
            left.mkdir()
            (left / "page.dcm").write_bytes(b"a patient's")
        made = predict_to_dicom(model(tmp_path / "model"), scan, out, maps=False)
        assert {one.name for one in out.iterdir()} == set(made.files)
    finally:
        subprocess.run(["umount", "--lazy", str(out)], capture_output=True)


def test_a_name_that_no_font_draws_is_told_by_its_number_on_the_page():
    assert drawable("Decision: mass", ("healthy", "mass")) == "Decision: mass"
    assert drawable("Decision: \ue000x", ("healthy", "\ue000x")) == "Decision: class 2"


def test_a_circle_at_the_border_lies_within_the_image(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    volume = read(scan)
    point = volume.index_to_mm(np.array(volume.shape) * (0.5, 0.5, 1) - (0, 0, 1.2))
    predict_to_dicom(model(tmp_path / "model", POINT), scan, tmp_path / "out", point_mm=point, maps=False)
    (region, *_) = contents(pydicom.dcmread(tmp_path / "out" / "report.dcm"), "Image Region")
    assert all(0 <= x <= volume.shape[2] for x in region.GraphicData[::2])


def test_a_blank_patient_stays_blank(tmp_path):
    gone = ("PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "StudyTime", "StudyID",
            "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator",
            "SpecificCharacterSet", "InstitutionName")  # fmt: skip
    scan = dicom_sources.write_source(tmp_path / "scan", "plain", PatientID="", **dict.fromkeys(gone))
    made = predict_to_dicom(model(tmp_path / "model"), scan, tmp_path / "out")
    for name in made.files:
        one = pydicom.dcmread(tmp_path / "out" / name)
        values = [e for _, e in elements(one) if e.tag.group == 0x0010 and e.value not in ("", None)]
        assert values == [], name
        assert all("Laterality" in line for line in errors_of(tmp_path / "out" / name)), name
    seg, page = (pydicom.dcmread(tmp_path / "out" / name) for name in ("segmentation.dcm", "map.dcm"))
    assert seg.FrameOfReferenceUID == page.FrameOfReferenceUID != ""


def test_the_same_result_is_the_same_instance_and_any_other_is_another(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    predictor = model(tmp_path / "model")
    first = predict_to_dicom(predictor, scan, tmp_path / "out").files
    assert predict_to_dicom(predictor, scan, tmp_path / "out").files == first  # over itself
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in first.values())
    assert len(set(first.values())) == 4
    found = result_of(predictor, scan, config=ExplainConfig())

    def uids(result, **how):
        return {name: str(one.SOPInstanceUID) for name, one in dicom_objects(result, **how).items()}

    assert uids(found) == first
    assert not set(uids(found, uids="new").values()) & set(first.values())
    decisions = found.card.decisions
    other = replace(decisions, each=(replace(decisions.each[0], threshold=0.4),))
    calibrated = replace(
        decisions, each=(replace(decisions.each[0], calibration=Calibration(method="temperature", temperature=2.0)),)
    )
    for changed in (
        replace(found, card=replace(found.card, decisions=other)),
        replace(found, card=replace(found.card, decisions=calibrated)),
        replace(found, model_digest="0" * 64),
        replace(found, prediction=replace(found.prediction, probabilities={"no": 0.5, "yes": 0.5})),
    ):
        assert uids(changed)["report.dcm"] != first["report.dcm"]
    turned = [copy.deepcopy(header) for header in found.source.headers]
    for header in turned:
        header.SeriesInstanceUID = "1.2.3.4"
    theirs = replace(found, source=replace(found.source, headers=tuple(turned)))
    assert not set(uids(theirs).values()) & set(first.values())
    born = [copy.deepcopy(header) for header in found.source.headers]
    for header in born:
        header.PatientBirthDate = "19500103"  # corrected
    corrected = replace(found, source=replace(found.source, headers=tuple(born)))
    assert not set(uids(corrected).values()) & set(first.values())
    assert all(header.PatientBirthDate == "19500102" for header in found.source.headers)  # nothing is changed in them


def test_no_result_has_no_probability_no_map_and_says_that_it_is_not_negative(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "repaired")
    volume = read(scan)
    ((_, at),) = volume.interpolated
    point = volume.index_to_mm([at, *(np.array(volume.shape[1:]) * (0.45, 0.3))])
    made = predict_to_dicom(model(tmp_path / "model", POINT), scan, tmp_path / "out", point_mm=point)
    assert set(made.files) == {"report.dcm", "segmentation.dcm", "page.dcm"}
    report = pydicom.dcmread(tmp_path / "out" / "report.dcm")
    assert contents(report, "Probability") == []
    for one in contents(report, "Decision"):
        assert one.TextValue.startswith("no-result (point-interpolated): the point lies in a missing slice")
        assert "not a negative result" in one.TextValue
    assert errors_of(tmp_path / "out" / "report.dcm") == []


def test_undecided_cases_and_several_labels_are_told_by_their_names(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    band = Decision(threshold=0.5, band=Band(low=0.0, high=1.0, error=0.1, coverage=0.0, patients=(50, 50)))
    predictor = model(tmp_path / "band", decision=band)
    predict_to_dicom(predictor, scan, tmp_path / "out", maps=False)
    report = pydicom.dcmread(tmp_path / "out" / "report.dcm")
    assert contents(report, "Decision")[0].TextValue.startswith("undecided (uncertain)")
    assert len(contents(report, "Probability")) == 2
    labels = model(tmp_path / "labels", classes=("1", "2"), multi_label=True, decision=Decision(threshold=0.0))
    predict_to_dicom(labels, scan, tmp_path / "labels-out", names=("nodule", "肺气肿"), maps=False)
    report = pydicom.dcmread(tmp_path / "labels-out" / "report.dcm")
    assert {one.TextValue for one in contents(report, "Decision")} == {"nodule + 肺气肿"}
    found = [one.ConceptCodeSequence[0].CodeMeaning for one in contents(report, "Finding")]
    assert found == ["nodule", "肺气肿"]


def test_the_page_has_the_notice_in_its_pixels_and_no_patient(results):
    *_, made, _ = results("plain")
    page = made["page.dcm"]
    pixels = page.pixel_array
    assert pixels.shape[1] == 1024
    assert (pixels[:50] == (213, 94, 0)).all(axis=-1).mean() > 0.5  # the banner
    assert page.BurnedInAnnotation == "NO"


def test_the_command_writes_objects_and_says_so(tmp_path, capsys):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    model(tmp_path / "model", classes=("0", "1"))
    flags = ["predict", str(tmp_path / "model"), str(scan), "--dicom", str(tmp_path / "out"), "--device", "cpu"]
    assert main(flags) == 1
    assert "--names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*flags, "--names", "healthy", "mass", "--no-maps", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        set(printed["dicom"])
        == {"report.dcm", "segmentation.dcm", "page.dcm"}
        == {one.name for one in (tmp_path / "out").iterdir()}
    )
    assert main([*flags, "--names", "healthy", "mass"]) == 0
    assert "DICOM: map.dcm, page.dcm, report.dcm, segmentation.dcm in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--uids", "new"], "--no-maps and --uids are for --dicom"),
        (["--dicom", "SCAN/out"], "must be a folder outside the scan"),
        (["--dicom", "NOTES"], "holds notes.txt"),
        (["--dicom", "out", "--names", "one"], "--names must be 2, got 1"),
        (["--dicom", "out", "--names", "a\\b", "c"], "no backslash"),
        (["--dicom", "out", "--names", "a", "a"], "distinct"),
    ],
)
def test_wrong_uses_end_in_one_line_and_write_nothing(tmp_path, capsys, flags, message):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    model(tmp_path / "model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    named = {"SCAN/out": str(scan / "out"), "NOTES": str(tmp_path / "notes"), "out": str(tmp_path / "out")}
    flags = [named.get(flag, flag) for flag in flags]
    assert main(["predict", str(tmp_path / "model"), str(scan), "--device", "cpu", *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_is_no_dicom_or_lacks_a_uid_ends_in_one_line(tmp_path, capsys):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    model(tmp_path / "model")
    read(scan).write(tmp_path / "scan.nii.gz")
    run = ["predict", str(tmp_path / "model"), "--device", "cpu", "--dicom", str(tmp_path / "out")]
    assert main([*run, str(tmp_path / "scan.nii.gz")]) == 1
    assert "must return to a DICOM series" in capsys.readouterr().err
    for path in scan.iterdir():
        header = pydicom.dcmread(path)
        del header.SOPClassUID
        header.save_as(path)
    assert main([*run, str(scan)]) == 1
    error = capsys.readouterr().err
    assert "it has no SOPClassUID" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody can write to: for root a file system of its own."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    is_mounted = os.geteuid() == 0 and shutil.which("mount")
    if is_mounted:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("root can write everywhere, and no file system can be mounted here")
    yield folder
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)
    folder.chmod(0o755)


def test_a_read_only_folder_ends_in_one_line_before_anything_is_computed(tmp_path, read_only, capsys):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    model(tmp_path / "model")
    flags = ["predict", str(tmp_path / "model"), str(scan), "--device", "cpu", "--dicom"]
    for out in (read_only, read_only / "new"):
        assert main([*flags, str(out)]) == 1
        error = capsys.readouterr().err
        assert "--dicom must be a folder in a folder that can be written to" in error
        assert error.count("\n") == 1


def test_values_of_the_patient_are_in_no_message_whatever_is_wrong_with_them(tmp_path, capsys):
    bad = {"PatientBirthDate": "SECRET-DATE", "PatientSex": "SECRET", "PatientAge": "SECRETAGE"}
    with pydicom.config.disable_value_validation():
        scan = dicom_sources.write_source(tmp_path / "scan", "plain", **bad)
    model(tmp_path / "model")
    flags = ["predict", str(tmp_path / "model"), str(scan), "--dicom", str(tmp_path / "out"), "--no-maps"]
    code = main([*flags, "--device", "cpu"])
    printed = capsys.readouterr()
    assert "SECRET" not in printed.err + printed.out
    assert code in (0, 1)


def test_real_scans_have_valid_objects(shared_data, tmp_path):
    predictor = model(tmp_path / "point", POINT)
    point = (-57.44, 131.23, -520.36)
    predict_to_dicom(predictor, shared_data / "lidc-0314", tmp_path / "lidc", point_mm=point)
    predict_to_dicom(model(tmp_path / "lungs"), shared_data / "lung-dx-a0001", tmp_path / "dx")
    for folder in ("lidc", "dx"):
        for name in ("report.dcm", "segmentation.dcm"):
            assert errors_of(tmp_path / folder / name) == [], (folder, name)
        for name in ("map.dcm", "page.dcm"):
            assert all("Laterality" in line for line in errors_of(tmp_path / folder / name)), (folder, name)
    report = pydicom.dcmread(tmp_path / "lidc" / "report.dcm")
    (region, *_) = contents(report, "Image Region")
    uid = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    sources = instances(shared_data / "lidc-0314")
    assert abs(sources[str(uid)][0][2] - point[2]) <= 0.5


def test_the_map_of_a_box_beside_all_slices_is_left_out(tmp_path):
    scan = dicom_sources.write_source(tmp_path / "scan", "plain")
    found = result_of(model(tmp_path / "model"), scan, config=ExplainConfig())
    (heat_map,) = found.heat_maps
    far = heat_map.affine.copy()
    far[2, 3] += 5000
    moved = type(heat_map)(
        values=heat_map.values, spread=None, affine=far, output="mass", method="occlusion", log_odds=0.0
    )
    values, slices, _, _ = on_planes(found, references_of(found.source, "1.2.3"), moved)
    assert (len(values), slices) == (0, [])
