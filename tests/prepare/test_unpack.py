from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssbench import keyed
from ssbench.errors import DataError
from ssbench.prepare.unpack import DamagedArchive, bound, is_archive, unpack

FILES = {"a/one.txt": b"one", "a/b/two.bin": keyed.rng("two").bytes(70_000), "readme": b""}
KINDS = ("zip", "tar", "tar.gz", "tar.xz", "tar.bz2")


def pack(folder: Path, kind: str, files: dict[str, bytes]) -> Path:
    path = folder / f"an archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, f"w:{kind[4:]}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_of(folder: Path, info: tarfile.TarInfo) -> Path:
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("fine"))
        archive.addfile(info)
    return folder / "x.tar"


def refused(path: Path, folder: Path, *words: str, limit: int = 1 << 20, members: int = 100) -> DataError:
    """Unpacking fails with these words, and leaves nothing."""
    with pytest.raises(DataError) as caught:
        unpack(path, folder / "out", limit, members)
    for word in (path.name, *words):
        assert word in caught.value.what
    assert caught.value.where == str(path)
    assert {p for p in folder.iterdir() if p.is_dir()} == set()
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_unpacked_whole(tmp_path, kind):
    path = pack(tmp_path, kind, FILES)
    assert is_archive(path)
    unpack(path, tmp_path / "out", 1 << 20)
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == FILES
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "a\\..\\out", "C:out"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path, kind, name):
    path = pack(tmp_path, kind, {"fine": b"1", name: b"2"})
    refused(path, tmp_path, "path", "member")
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("bad")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(tar_of(tmp_path, info), tmp_path, "'bad'", "link or device")


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("bad")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "x.zip", tmp_path, "'bad'", "link or device")


@pytest.mark.parametrize("kind", KINDS)
def test_bombs_are_refused_by_size_and_by_number(tmp_path, kind):
    big = pack(tmp_path, kind, {"a": b"", "big": bytes(200_000)})
    refused(big, tmp_path, "'big'", "bomb", limit=100_000)
    refused(big, tmp_path, "'big'", "more than 1 members", members=1)
    unpack(big, tmp_path / "out", 200_000, 2)


def zip_end(size: int, start: int, entries: int) -> bytes:
    """The end of a zip whose index has `size` bytes from `start` on."""
    return b"PK\5\6" + struct.pack("<4H2LH", 0, 0, entries, entries, size, start, 0)


def test_a_zip_whose_index_has_more_bytes_than_are_read_is_refused(tmp_path):
    """300 MB of index in a sparse file: refused before they are read, whatever number of entries is declared."""
    path = tmp_path / "big.zip"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(4 + (300 << 20))
        file.seek(0, 2)
        file.write(zip_end(300 << 20, 4, 1))
    error = refused(path, tmp_path, "its index has 314.6 MB, at most 268.4 MB are read")
    assert (error.code, error.fix) == (4, "do not use this archive; fetch it from its official address")


def test_entries_of_a_zips_index_are_counted_not_believed(tmp_path):
    """The index has 300 entries, all of one member, and the end of the file declares one."""
    sound = pack(tmp_path, "zip", {"a": b"1"}).read_bytes()
    start = sound.index(b"PK\1\2")
    entry = sound[start : sound.index(b"PK\5\6")]
    path = tmp_path / "many.zip"
    path.write_bytes(sound[:start] + 300 * entry + zip_end(300 * len(entry), start, 1))
    refused(path, tmp_path, "member 'a'", "more than 100 members")


def test_a_refused_index_ends_an_import_with_exit_code_4(ssbench, tmp_path):
    path = tmp_path / "big.zip"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(300 << 20)
        file.seek(0, 2)
        file.write(zip_end((300 << 20) - 4, 4, 1))
    ran = ssbench("import", str(path), "--name", "mine", "--classes", "a,b", "--data-root", str(tmp_path / "data"))
    assert ran.code == 4
    assert "big.zip is refused: its index has" in ran.err
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").iterdir())


def test_many_files_together_may_not_pass_the_bound(tmp_path):
    path = pack(tmp_path, "zip", {str(i): bytes(1000) for i in range(20)})
    refused(path, tmp_path, "'15'", limit=15_500)


def test_the_bound_grows_with_the_archive(tmp_path):
    path = pack(tmp_path, "zip", FILES)
    assert bound(path) == (1 << 30) + 20 * path.stat().st_size


def test_a_zip_that_lies_about_a_size_is_damaged_not_a_surprise(tmp_path):
    path = pack(tmp_path, "zip", {"liar": bytes(100_000)})
    data = path.read_bytes().replace((100_000).to_bytes(4, "little"), (500).to_bytes(4, "little"))
    path.write_bytes(data)
    refused(path, tmp_path, "liar", "damaged")


def test_a_wrong_check_sum_in_a_zip_names_the_member(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good", b"good")
        archive.writestr("poor", b"the content")
    path.write_bytes(path.read_bytes().replace(b"the content", b"THE content"))
    assert isinstance(refused(path, tmp_path, "damaged at poor", "CRC"), DamagedArchive)


def test_a_wrong_check_sum_at_the_end_of_a_gz_is_seen(tmp_path):
    path = pack(tmp_path, "tar.gz", FILES)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert isinstance(refused(path, tmp_path, "damaged", "CRC"), DamagedArchive)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.85])
def test_an_archive_cut_short_is_damaged(tmp_path, kind, share):
    path = pack(tmp_path, kind, FILES)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert isinstance(refused(path, tmp_path, "damaged"), DamagedArchive)


def test_a_tar_cut_exactly_between_two_members_is_damaged(tmp_path):
    path = pack(tmp_path, "tar", {"one": bytes(512), "two": bytes(512)})
    path.write_bytes(path.read_bytes()[:1024])
    refused(path, tmp_path, "damaged at one")


def test_garbage_and_an_empty_file_are_damaged(tmp_path):
    for name, data in (("x.zip", b"<html>log in first</html>"), ("x.tar", b""), ("x.tar.gz", b"\x1f\x8bnonsense")):
        (tmp_path / name).write_bytes(data)
        assert isinstance(refused(tmp_path / name, tmp_path, "damaged at its index"), DamagedArchive)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    refused(path, tmp_path, "'a'", "second entry")


def test_an_encrypted_member_is_refused(tmp_path):
    path = pack(tmp_path, "zip", {"a": b"secret"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, tmp_path, "'a'", "encrypted")


def test_a_full_disk_is_said_and_nothing_stays(small_disk):
    path = pack(small_disk, "zip", {"a": b"1", "big": bytes(2_000_000)})
    with pytest.raises(DataError, match=r"the disk is full: 2\.0 MB more needed") as caught:
        unpack(path, small_disk / "out", 1 << 30)
    assert caught.value.where.endswith("big")
    assert [p.name for p in small_disk.iterdir()] == [path.name]
