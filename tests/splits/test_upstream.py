from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ssbench.errors import DataError, UsageError
from ssbench.prepare.split_lists import fetch_lists
from ssbench.splits import lists
from ssbench.splits.manifest import Partition, folder, manifest, pool_file

pytestmark = pytest.mark.real
COUNTS = {"voc": 3 + 2 * 16 + 2, "cityscapes": 2 + 2 * 12, "acdc": 3 + 2 * 3, "camvid": 3 + 2 * 5, "toy": 1 + 2 * 5}
NOWHERE = "http://127.0.0.1:9"  # nothing listens there: whoever asks fails


@pytest.mark.parametrize(("dataset", "count"), COUNTS.items())
def test_every_list_comes_from_the_source(dataset: str, count: int, shared: Path, tmp_path: Path) -> None:
    assert fetch_lists(dataset, tmp_path, shared, host=NOWHERE) == count
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.txt")}
    assert fetch_lists(dataset, tmp_path, tmp_path / "no source", host=NOWHERE) == count
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.txt")} == before  # nothing written twice


@pytest.mark.parametrize("below", ["", "splits", "splits/UniMatch", "acdc"])
def test_the_source_may_be_any_customary_folder(below: str, shared: Path, tmp_path: Path) -> None:
    assert fetch_lists("acdc", tmp_path, shared / below, host=NOWHERE) == COUNTS["acdc"]


@pytest.mark.parametrize("dataset", ["voc", "cityscapes", "acdc"])
def test_what_is_stored_is_canonical_and_its_bytes_are_the_manifests_digest(
    dataset: str, shared: Path, tmp_path: Path
) -> None:
    fetch_lists(dataset, tmp_path, shared)
    for name, entry in manifest().splits.items():
        if name.startswith(f"{dataset}/"):
            for role, wanted in (("labeled", entry.labeled), ("unlabeled", entry.unlabeled)):
                if not wanted.has_file:
                    continue
                ids = (folder(name, tmp_path) / f"{role}.txt").read_text().splitlines()
                assert len(ids) == wanted.count
                assert lists.fingerprint(ids) == wanted.fingerprint, name


@pytest.fixture
def copy(shared: Path, tmp_path: Path) -> Path:
    """A source of one's own, to damage: the ACDC lists of UniMatch."""
    path = tmp_path / "source/splits/UniMatch/more-scenarios"
    shutil.copytree(shared / "splits/UniMatch/more-scenarios", path)
    for item in (path, *path.rglob("*")):
        item.chmod(0o755)
    return tmp_path / "source"


def upstream(source: Path) -> Path:
    return source / "splits/UniMatch/more-scenarios/medical/splits/acdc/3/labeled.txt"


def test_a_checkout_that_changed_line_ends_is_the_same_list(copy: Path, tmp_path: Path) -> None:
    path = upstream(copy)
    path.write_bytes(b"\r\n".join(path.read_bytes().split(b"\n")) + b"\r\n\r\n")
    assert fetch_lists("acdc", tmp_path, copy, host=NOWHERE) == COUNTS["acdc"]
    assert len(Partition.read("acdc/ssl4mis/3", tmp_path).labeled) == 68


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: "\n".join(text.splitlines()[:-1]), "labeled.txt has 67 ids, manifest says 68 (last line lost?)"),
        (lambda text: text + "\n" + text.splitlines()[0], "stands here twice, first on line 1"),
        (lambda text: text + "\ndata/slices/patient001_frame01_slice_1.h5", "69 ids, manifest says 68 (lines added?)"),
        (lambda text: text.replace("slice_1.h5", "slice_77.h5"), "as the manifest says, but others: digest"),
        (lambda text: text.replace(".h5", ".npz"), "not a line of format 'acdc_slice'"),
    ],
)  # fmt: skip
def test_a_wrong_list_in_the_source_is_refused_and_not_stored(
    damage: Callable[[str], str], says: str, copy: Path, tmp_path: Path
) -> None:
    path = upstream(copy)
    whole = path.read_text()
    path.write_text(damage(whole))
    with pytest.raises(DataError) as caught:
        fetch_lists("acdc", tmp_path, copy, host=NOWHERE)
    assert says in caught.value.what
    assert caught.value.where.startswith(str(path))
    assert not (folder("acdc/ssl4mis/3", tmp_path) / "labeled.txt").exists()
    path.write_text(whole)
    assert fetch_lists("acdc", tmp_path, copy, host=NOWHERE) == COUNTS["acdc"]


def test_a_stored_list_that_was_damaged_is_brought_again(shared: Path, tmp_path: Path) -> None:
    fetch_lists("acdc", tmp_path, shared)
    path = folder("acdc/ssl4mis/7", tmp_path) / "unlabeled.txt"
    path.write_text("half of a li")
    fetch_lists("acdc", tmp_path, shared, host=NOWHERE)
    assert len(Partition.read("acdc/ssl4mis/7", tmp_path).unlabeled) == 1176


def test_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no lists of a dataset 'citiscapes'; did you mean 'cityscapes'"):
        fetch_lists("citiscapes", tmp_path)


def whole_pool(shared: Path) -> set[str]:
    """As many ids as train2017 has, the labelled ones among them."""
    ids = set()
    for path in (shared / "splits/UniMatch/splits/coco").glob("1_*/labeled.txt"):
        ids |= set(lists.parse(path.read_text(), "coco_pair", "coco", path))
    spare = (f"{number:012d}" for number in range(600_000, 800_000))
    return ids | {next(spare) for _ in range(118_287 - len(ids))}


def test_coco_unlabelled_lists_are_the_rest_of_the_images(shared: Path, tmp_path: Path) -> None:
    pool = whole_pool(shared)
    assert fetch_lists("coco", tmp_path, shared, pool, host=NOWHERE) == 1 + 2 * 5
    for name in (n for n in manifest().splits if n.startswith("coco/")):
        split = Partition.read(name, tmp_path)
        assert set(split.labeled) | set(split.unlabeled) == pool
        assert len(split.labeled) + len(split.unlabeled) == 118_287


def test_without_all_images_coco_keeps_its_labelled_lists_and_says_what_is_missing(
    shared: Path, tmp_path: Path
) -> None:
    assert fetch_lists("coco", tmp_path, shared, ["000000000009"], host=NOWHERE) == 1 + 5
    assert pool_file("coco", "val", tmp_path).is_file()
    with pytest.raises(DataError, match=r"unlabeled\.txt is not there") as caught:
        Partition.read("coco/pseudoseg/1_64", tmp_path)
    assert caught.value.fix == f"ssbench prepare coco --data-root {tmp_path}"


def test_a_labelled_coco_id_that_is_no_image_is_refused(shared: Path, tmp_path: Path) -> None:
    pool = whole_pool(shared)
    pool.remove("000000177254")  # a labelled id of 1_512
    with pytest.raises(DataError, match="labelled id '000000177254' is not among the 118287 images"):
        fetch_lists("coco", tmp_path, shared, pool | {"000000999999"}, host=NOWHERE)


def test_another_coco_list_under_the_upstream_name_is_refused_by_its_git_blob(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "source/UniMatch/splits/coco"
    shutil.copytree(shared / "splits/UniMatch/splits/coco", path)
    (path / "1_512").chmod(0o755)
    (path / "1_512/unlabeled.txt").write_text("train2017/000000000009.jpg masks/000000000009.png\n")
    with pytest.raises(DataError, match="not the file of the pinned commit"):
        fetch_lists("coco", tmp_path / "data", tmp_path / "source", host=NOWHERE)


class _Lists(BaseHTTPRequestHandler):
    """A server of the raw files of the pinned commits, from the stored copies; `bad` is sent with a byte changed."""

    stored: Path
    bad = ""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        owner_repo, _, rest = self.path.removeprefix("/").partition("/")[2].partition("/")
        commit, _, path = rest.partition("/")
        pinned = [
            k for k, r in manifest().repositories.items() if r.slug.endswith(f"/{owner_repo}") and r.commit == commit
        ]
        file = self.stored / pinned[0] / path if pinned else self.stored / "none"
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        if self.bad and self.path.endswith(self.bad):
            data = data.replace(b"1", b"7", 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(shared: Path) -> Iterator[tuple[str, type[_Lists]]]:
    class Here(_Lists):
        stored = shared / "splits"
        asked: list[str] = []  # noqa: RUF012

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", Here
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_without_a_source_lists_are_downloaded_at_the_pinned_commit(
    server: tuple[str, type[_Lists]], tmp_path: Path
) -> None:
    host, handler = server
    assert fetch_lists("cityscapes", tmp_path, host=host) == COUNTS["cityscapes"]
    assert len(handler.asked) == COUNTS["cityscapes"]
    assert len(Partition.read("cityscapes/cps/1_16", tmp_path).labeled) == 186
    fetch_lists("cityscapes", tmp_path, host=NOWHERE)


def test_what_a_source_lacks_is_downloaded(server: tuple[str, type[_Lists]], tmp_path: Path) -> None:
    assert fetch_lists("acdc", tmp_path, tmp_path / "archives", host=server[0]) == COUNTS["acdc"]


def test_a_list_that_is_gone_upstream_names_the_way_by_hand(server: tuple[str, type[_Lists]], tmp_path: Path) -> None:
    host, handler = server
    handler.stored = tmp_path
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        fetch_lists("acdc", tmp_path / "data", host=host)
    assert "404" in caught.value.where
    assert "git clone https://github.com/LiheYoung/UniMatch SOURCE/splits/UniMatch" in caught.value.fix
    assert "checkout 0324f3dd4a22128105a5eb135d2586c0bb3cc647" in caught.value.fix
    assert not list((tmp_path / "data").rglob("*.txt"))
