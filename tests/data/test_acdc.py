from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench import keyed
from ssbench.data.acdc import Acdc
from ssbench.errors import DataError, UsageError
from ssbench.prepare.acdc import (
    TEST,
    VAL,
    H5Volume,
    NiftiVolume,
    PngVolume,
    convert,
    convert_volume,
    find_volumes,
    subset_of,
)
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.prepare import PrepareReport, check, prepare

h5py = pytest.importorskip("h5py", reason="needs the extra ssbench[medical]")
nibabel = pytest.importorskip("nibabel", reason="needs the extra ssbench[medical]")
Arrays = tuple[np.ndarray, np.ndarray]


def volume(patient: int, frame: int, shape: tuple[int, int, int] = (12, 10, 8)) -> Arrays:
    """Grey levels 0..255 (both occur) and labels 0..3, slices x height x width."""
    draw = keyed.rng("acdc", patient, frame)
    grey = draw.integers(0, 256, shape, np.uint8)
    grey[0, 0, :2] = 0, 255
    return grey, draw.integers(0, 4, shape, np.uint8)


def as_png(folder: Path, name: str, grey: np.ndarray, labels: np.ndarray) -> None:
    for part, array in (("slices", grey), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for k, plane in enumerate(array, 1):
            Image.fromarray(plane).save(folder / part / f"{name}_slice_{k}.png")


def as_h5(path: Path, grey: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = (grey / np.float32(255)).astype(np.float32), labels


def as_nifti(training: Path, patient: int, frame: int, grey: np.ndarray, labels: np.ndarray) -> Path:
    """As the challenge has it: column, row, slice; raw intensities; spacing in the header."""
    folder = training / f"patient{patient:03d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"patient{patient:03d}_frame{frame:02d}.nii.gz"
    for file, array in ((path, grey.astype(np.int16) * 3 - 40), (truth(path), labels)):
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4))
        image.header.set_zooms((1.5, 1.25, 10))
        nibabel.save(image, file)
    return path


def truth(path: Path) -> Path:
    return path.with_name(path.name.replace(".nii.gz", "_gt.nii.gz"))


def converted(source: Path, dest: Path) -> dict[str, bytes]:
    """Every file `convert` writes, by its relative path."""
    convert(source, dest, PrepareJob("acdc", dest.parent))
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Path]:
    """One patient of each subset in the three forms."""
    roots = {form: tmp_path / form for form in ("png", "h5", "nifti")}
    for patient, second in ((99, 12), (28, 9), (90, 11)):
        for frame, raw in ((1, 1 if patient != 90 else 4), (2, second)):
            arrays = volume(patient, frame)
            name = f"patient{patient:03d}_frame{frame:02d}"
            as_png(roots["png"], name, *arrays)
            as_h5(roots["h5"] / "data" / f"{name}.h5", *arrays)
            as_nifti(roots["nifti"] / "database" / "training", patient, raw, *arrays)
    return roots


def test_three_forms_end_in_the_same_pixels(forms, tmp_path):
    png, h5, nifti = (converted(root, tmp_path / f"{form} out") for form, root in forms.items())
    assert h5.keys() == nifti.keys() == {re.sub(r"^(slices/.*)png$", r"\1tif", name) for name in png}
    assert len(png) == 6 * 12 * 2 + 1
    assert {k: v for k, v in h5.items() if k != "volumes.csv"} == {k: v for k, v in nifti.items() if k != "volumes.csv"}
    out = Acdc(tmp_path / "nifti out")
    for subset, patients in (("train", (90, 99)), ("val", (28,)), ("test", ()), ("val+test", (28,))):
        assert list(out.volumes(subset)) == [f"patient{p:03d}_frame{f:02d}" for p in patients for f in (1, 2)]
        for name, ids in out.volumes(subset).items():
            assert ids == tuple(f"{name}_slice_{k}" for k in range(1, 13))
            grey, labels = volume(int(name[7:10]), int(name[-2:]))
            intensity = np.stack([np.asarray(out.image(id)) for id in ids])
            assert intensity.dtype == np.float32
            assert np.array_equal(intensity, (grey / np.float64(255)).astype(np.float32))
            assert np.array_equal(np.stack([np.asarray(out.mask(id)) for id in ids]), labels)
            assert np.array_equal(np.asarray(Acdc(tmp_path / "png out").image(ids[3])), grey[3])
        assert out.ids(subset) == tuple(sorted(id for ids in out.volumes(subset).values() for id in ids))


def test_the_table_tells_the_spacing_where_it_is_known(forms, tmp_path):
    converted(forms["nifti"], tmp_path / "a")
    converted(forms["h5"], tmp_path / "b")
    assert (tmp_path / "a" / "volumes.csv").read_text().splitlines()[:2] == [
        "volume,subset,slices,height,width,spacing",
        "patient028_frame01,val,12,10,8,10x1.25x1.5",
    ]
    assert (tmp_path / "b" / "volumes.csv").read_text().splitlines()[1] == "patient028_frame01,val,12,10,8,"


def test_the_settings_say_which_form_it_was(forms, tmp_path):
    for form, root in forms.items():
        job = PrepareJob("acdc", tmp_path)
        convert(root, tmp_path / f"{form} out", job)
        assert job.settings["form"] == form
        assert job.settings["intensity"].endswith("8 bit" if form == "png" else "float32")


def test_slices_alone_do_when_the_volumes_are_missing(tmp_path):
    grey, labels = volume(99, 1)
    for k in range(12):
        as_h5(tmp_path / "in" / "data" / "slices" / f"patient099_frame01_slice_{k + 1}.h5", grey[k], labels[k])
    converted(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(
        np.asarray(Acdc(tmp_path / "out").image("patient099_frame01_slice_12")), grey[11] / np.float32(255)
    )
    (tmp_path / "in" / "data" / "slices" / "patient099_frame01_slice_5.h5").unlink()
    with pytest.raises(DataError, match=r"patient099_frame01 has slices \[1, 2, 3, 4, 6"):
        find_volumes(tmp_path / "in")


def test_frames_are_numbered_by_order_and_agree_with_the_patients_file(tmp_path):
    for raw in (4, 11):
        as_nifti(tmp_path, 90, raw, *volume(90, raw))
    info = tmp_path / "patient090" / "Info.cfg"
    info.write_text("ED: 11\nES: 4\nGroup: MINF\n")
    assert [(v.name, v.files[0].name) for v in find_volumes(tmp_path)] == [
        ("patient090_frame01", "patient090_frame04.nii.gz"),
        ("patient090_frame02", "patient090_frame11.nii.gz"),
    ]
    info.write_text("ED: 1\nES: 11\n")
    with pytest.raises(DataError, match=r"patient090 has frames \[4, 11\], Info.cfg names"):
        find_volumes(tmp_path)
    info.unlink()
    for path in (tmp_path / "patient090").glob("*frame04*"):
        path.unlink()
    with pytest.raises(DataError, match=r"patient090 has frames \[11\], not two"):
        find_volumes(tmp_path)


def test_the_challenges_test_patients_are_left_alone(forms, tmp_path):
    as_nifti(forms["nifti"] / "database" / "testing", 101, 1, *volume(101, 1))
    assert len(find_volumes(forms["nifti"])) == 6
    with pytest.raises(DataError, match="no patient 101"):
        subset_of("patient101_frame01")


def test_patients_of_the_subsets():
    assert (len(VAL), len(TEST), len(set(VAL) | set(TEST))) == (10, 20, 30)


def test_what_is_there_is_not_converted_again_and_what_is_cut_is(forms, tmp_path):
    before = converted(forms["h5"], tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("patient028_*")}
    broken = tmp_path / "out" / "slices" / "patient099_frame01_slice_3.tif"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert converted(forms["h5"], tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("h5", "data/patient099_frame01.h5"),
        ("nifti", "database/training/patient099/patient099_frame01.nii.gz"),
        ("nifti", "database/training/patient099/patient099_frame01_gt.nii.gz"),
        ("png", "slices/patient099_frame01_slice_1.png"),
    ],
)
@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b""), lambda path: path.write_text("<html>")])
def test_a_damaged_file_is_named(forms, tmp_path, form, file, damage):
    path = forms[form] / file
    good = path.read_bytes()
    damage(path)
    with pytest.raises(DataError, match=path.name) as caught:
        converted(forms[form], tmp_path / "out")
    assert caught.value.where == str(path)
    path.write_bytes(good)
    assert len(converted(forms[form], tmp_path / "out")) == 145


@pytest.mark.parametrize("file", ["slices/patient099_frame01_slice_7.png", "labels/patient099_frame01_slice_7.png"])
def test_a_cut_png_is_found_by_prepare(forms, tmp_path, file, monkeypatch):
    monkeypatch.setattr("ssbench.prepare.acdc.COUNTS", {"train": 48})
    cut(forms["png"] / file)
    with pytest.raises(DataError, match="patient099_frame01_slice_7") as caught:
        prepare("acdc", tmp_path / "data", forms["png"], workers=1)
    assert caught.value.code == 4
    assert not (tmp_path / "data" / "acdc").exists()


def test_labels_and_intensities_that_cannot_be(tmp_path):
    grey, labels = volume(99, 1)
    as_h5(tmp_path / "patient099_frame01.h5", grey, np.where(labels == 3, 5, labels))
    with pytest.raises(DataError, match=r"patient099_frame01\.h5 has labels \[5\], known are 0\.\.3"):
        converted(tmp_path, tmp_path / "out")
    with h5py.File(tmp_path / "patient099_frame01.h5", "w") as file:
        file["image"], file["label"] = grey, labels
    with pytest.raises(DataError, match=r"patient099_frame01\.h5: image .* from 0 to 255"):
        converted(tmp_path, tmp_path / "out")
    with h5py.File(tmp_path / "patient099_frame01.h5", "w") as file:
        file["image"] = grey
    with pytest.raises(DataError, match=r"patient099_frame01\.h5 cannot be read"):
        converted(tmp_path, tmp_path / "out")


def test_an_empty_nifti_volume_is_refused(tmp_path):
    grey, labels = volume(99, 1)
    path = as_nifti(tmp_path, 99, 1, np.zeros_like(grey), labels)
    with pytest.raises(DataError, match=rf"{path.name} is of one grey value"):
        converted(tmp_path, tmp_path / "out")


def test_a_missing_library_is_named_with_the_extra_that_brings_it(forms, tmp_path, monkeypatch):
    for library, form in (("h5py", "h5"), ("nibabel", "nifti")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UsageError, match=library) as caught:
            converted(forms[form], tmp_path / "out")
        assert caught.value.fix == "pip install 'ssbench[medical]'"


def test_without_a_source_the_steps_by_hand_are_told_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(DataError, match=r"ACDC\.zip has to be fetched by hand") as caught:
        prepare("acdc", tmp_path)
    assert "https://www.creatis.insa-lyon.fr/Challenge/acdc/" in caught.value.fix
    assert "ssbench prepare acdc --source ACDC.zip" in caught.value.fix
    assert caught.value.code == 4


def test_an_archive_of_a_part_is_converted_and_counted(forms, tmp_path):
    home = tmp_path / "data" / "downloads" / "acdc"
    home.mkdir(parents=True)
    with zipfile.ZipFile(home / "ACDC.zip", "w") as archive:
        for path in forms["nifti"].rglob("*.nii.gz"):
            archive.write(path, "ACDC/" + str(path.relative_to(forms["nifti"])))
    with pytest.raises(DataError) as caught:
        prepare("acdc", tmp_path / "data", workers=1)
    assert caught.value.what == "acdc is not complete: train has 48 of 1312, val has 24 of 210, test has 0 of 380"
    assert caught.value.code == 4
    assert not (tmp_path / "data" / "acdc").exists()


def test_no_volumes_and_a_damaged_table(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no ACDC volumes"):
        find_volumes(tmp_path / "in")
    with pytest.raises(DataError, match="acdc is not prepared"):
        Acdc(tmp_path).ids("train")
    (tmp_path / "volumes.csv").write_text("volume,subset,slices\na,train,many\n")
    with pytest.raises(DataError, match=r"volumes\.csv is damaged"):
        Acdc(tmp_path).ids("train")
    with pytest.raises(UsageError, match="acdc has no subset 'valtest'"):
        Acdc(tmp_path).ids("valtest")


@pytest.fixture(scope="module")
def whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport]:
    """All of ACDC, prepared from the folder of PNGs."""
    root = tmp_path_factory.mktemp("data")
    return root, prepare("acdc", root, shared / "acdc")


@pytest.mark.real
def test_all_of_acdc(whole, shared):
    root, report = whole
    assert report.counts == {"train": 1312, "val": 210, "test": 380}
    assert report.settings["form"] == "png"
    assert check("acdc", root) == []
    data, lists = Acdc(root / "acdc"), shared / "splits" / "SSL4MIS" / "data" / "ACDC"
    for subset, volumes in (("train", 140), ("val", 20), ("test", 40)):
        listed = sorted((lists / f"{subset}.list").read_text().split())
        assert sorted(data.volumes(subset)) == listed
        assert len(listed) == volumes
    assert data.ids("train") == tuple(sorted((lists / "train_slices.list").read_text().split()))
    assert len(data.ids("val+test")) == 590
    assert len(data.volumes("val+test")) == 60


@pytest.mark.real
def test_the_table_agrees_with_the_one_of_the_source(whole, shared):
    def rows(path: Path) -> list[tuple[str, ...]]:
        return sorted(tuple(line.split(",")) for line in path.read_text().splitlines()[1:])

    ours = [row[:5] for row in rows(whole[0] / "acdc" / "volumes.csv")]
    assert ours == [(row[0], row[1], *row[3:6]) for row in rows(shared / "acdc" / "volumes.csv")]


@pytest.mark.real
def test_the_real_h5_files_give_the_real_pngs_within_quantisation(whole, shared, tmp_path):
    home, data = shared / "acdc" / "h5_sample" / "data", Acdc(whole[0] / "acdc")
    sample = H5Volume("patient028_frame01", (home / "patient028_frame01.h5",))
    name, subset, slices, *_ = convert_volume(sample, tmp_path)
    (tmp_path / "volumes.csv").write_text(f"volume,subset,slices\n{name},{subset},{slices}\n")
    from_h5 = Acdc(tmp_path)
    assert from_h5.ids("val")
    for id in from_h5.ids("val"):
        with h5py.File(home / "patient028_frame01.h5", "r") as file:
            stored = file["image"][int(id.rpartition("_")[2]) - 1]
        intensity = np.asarray(from_h5.image(id))
        assert np.array_equal(intensity, stored), "float slices are kept bit for bit"
        assert np.abs(255 * intensity - np.asarray(data.image(id))).max() <= 0.51
        assert np.array_equal(np.asarray(from_h5.mask(id)), np.asarray(data.mask(id)))
    for k in (7, 8, 9):
        id = f"patient099_frame01_slice_{k}"
        (grey,), (labels,) = H5Volume(id, (home / "slices" / f"{id}.h5",)).read()
        assert np.abs(255 * grey - np.asarray(data.image(id))).max() <= 0.51
        assert np.array_equal(labels, np.asarray(data.mask(id)))


@pytest.mark.real
def test_the_real_slices_through_nifti_are_the_real_slices(shared, tmp_path):
    found = {v.name: v for v in PngVolume.find(shared / "acdc")}
    assert len(found) == 200
    home, volume = Acdc(shared / "acdc"), found["patient090_frame01"]
    ids = [path.stem for path in volume.files]
    grey, labels = (np.stack([np.asarray(read(id)) for id in ids]) for read in (home.image, home.mask))
    assert (grey.min(), grey.max()) == (0, 255)
    path = as_nifti(tmp_path, 90, 4, grey, labels)
    again = NiftiVolume("patient090_frame01", (path, truth(path)))
    assert again.shape() == grey.shape
    image, truths = again.read()
    assert np.array_equal(np.rint(image * 255), grey)
    assert np.array_equal(truths, labels)


@pytest.mark.real
def test_a_part_of_the_real_files_is_not_enough(shared, tmp_path):
    with pytest.raises(DataError, match=r"patient099_frame01 has slices \[7, 8, 9\]") as caught:
        prepare("acdc", tmp_path, shared / "acdc" / "h5_sample")
    assert caught.value.code == 4
