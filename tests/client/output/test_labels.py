"""Files that trainers and annotation tools read, read by those that can be had."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from nas_client import Detections
from nas_client.media.sources import Source, expand, originals
from nas_client.output import annotation_tools, coco
from nas_client.output.formats import Found, yolo_lines
from nas_client.output.label_folders import VocFolder, YoloFolder
from nas_eval.open_dataset import open_dataset
from numpy.typing import NDArray

NAMES = ("person", "Straßenbahn, rot", "it's")
BOXES = np.array([[10, 5, 30, 25], [0, 0, 100, 50]], np.float32)


def found(source: Source, frame: int | None = None) -> Found:
    """A person of 0.5 that fills the picture, and a tram."""
    labels = np.array([1, 0], np.int32)
    detections = Detections(BOXES, np.array([0.9, 0.5], np.float32), labels, tuple(NAMES[label] for label in labels))
    return Found(source, (100, 50), detections, frame)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (50, 100, 3), np.uint8)


@pytest.fixture
def sources(tmp_path: Path, picture: NDArray[np.uint8]) -> list[Source]:
    for name in ("a/x.jpg", "b/x.jpg", "y.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), picture)
    return expand([str(tmp_path / "in")])


def write_yolo(folder: Path, sources: list[Source], with_scores: bool = False) -> None:
    labels = YoloFolder(folder, NAMES, with_scores)
    for source in sources:
        labels.add(found(source), Path(source.name).read_bytes())
    labels.close()


def test_a_yolo_folder_is_a_data_set(tmp_path: Path, sources: list[Source]) -> None:
    for _ in range(2):  # a second run writes over the first
        write_yolo(tmp_path / "out", sources)
    assert [path.relative_to(tmp_path / "out/labels") for path in sorted((tmp_path / "out/labels").rglob("*.txt"))] == [
        Path("a/x.txt"),
        Path("b/x.txt"),
        Path("y.txt"),
    ]
    assert (tmp_path / "out/images/a/x.jpg").resolve() == tmp_path / "in/a/x.jpg"
    assert (tmp_path / "out/classes.txt").read_text().splitlines() == list(NAMES)
    read = open_dataset(str(tmp_path / "out/data.yaml"))
    assert len(read.pictures) == 3 and tuple(read.class_names.values()) == NAMES
    boxes = [[round(value) for value in one["bbox"]] for one in read.truth["annotations"]]
    assert sorted(boxes) == [[0, 0, 100, 50]] * 3 + [[10, 5, 20, 20]] * 3


def test_scores_are_a_sixth_column_on_demand(tmp_path: Path, sources: list[Source]) -> None:
    assert yolo_lines(found(sources[0])).splitlines()[0] == "1 0.200000 0.300000 0.200000 0.400000"
    assert yolo_lines(found(sources[0]), with_scores=True).splitlines()[0].endswith(" 0.400000 0.9000")
    write_yolo(tmp_path / "out", sources, with_scores=True)
    assert all(len(line.split()) == 6 for line in (tmp_path / "out/labels/y.txt").read_text().splitlines())


def test_frames_and_what_is_no_file_are_written_beside_their_labels(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    folder = YoloFolder(tmp_path, NAMES)
    folder.add(found(Source("clip.mp4", "clip.mp4"), frame=7), picture)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    for _ in range(2):
        folder.add(found(Source("https://example.org/z.png?1", "z.png")), encoded)
    assert cv2.imread(str(tmp_path / "images/clip_000007.jpg")).shape == picture.shape
    assert (tmp_path / "images/z.png").read_bytes() == encoded == (tmp_path / "images/z_2.png").read_bytes()
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"clip_000007.txt", "z.txt", "z_2.txt"}


def test_ultralytics_reads_a_yolo_folder(tmp_path: Path, sources: list[Source]) -> None:
    data = pytest.importorskip("ultralytics.data.utils", reason="ultralytics is not installed")
    write_yolo(tmp_path / "out", sources)
    info = data.check_det_dataset(str(tmp_path / "out/data.yaml"), autodownload=False)
    assert list(info["names"].values()) == list(NAMES)
    images = [str(path) for path in sorted((tmp_path / "out/images").rglob("*.*"))]
    for image, label in zip(images, data.img2label_paths(images), strict=True):
        verified = data.verify_image_label((image, label, "", False, len(NAMES), 0, 0, False))
        assert verified[0] == image and len(verified[1]) == 2, verified[-1]


def test_supervision_reads_voc_and_yolo(tmp_path: Path, sources: list[Source]) -> None:
    supervision = pytest.importorskip("supervision")
    flat = [source for source in sources if source.relative == "y.png"]
    voc = VocFolder(tmp_path / "voc", NAMES)
    for source in flat:
        voc.add(found(source), b"")
    voc.close()
    write_yolo(tmp_path / "yolo", flat)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/y.png").write_bytes(Path(flat[0].name).read_bytes())
    pictures = str(tmp_path / "pictures")
    for read in (
        supervision.DetectionDataset.from_pascal_voc(pictures, str(tmp_path / "voc")),
        supervision.DetectionDataset.from_yolo(
            pictures, str(tmp_path / "yolo/labels"), str(tmp_path / "yolo/data.yaml")
        ),
    ):
        ((_, _, detections),) = list(read)
        assert {tuple(np.round(box)) for box in detections.xyxy} == {tuple(box) for box in BOXES.tolist()}
        assert {read.classes[label] for label in detections.class_id} == set(NAMES[:2])


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    images = [
        {"id": id_, "file_name": name, "width": 100, "height": 50} for id_, name in ((40, "b/x.jpg"), (41, "y.png"))
    ]
    content = {
        "images": images,
        "categories": [{"id": 90, "name": NAMES[0]}, {"id": 7, "name": NAMES[1]}],
        "annotations": [
            {"id": 1, "image_id": 41, "category_id": 7, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 41, "category_id": 90, "bbox": [0, 0, 100, 50], "area": 5000, "iscrowd": 0},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


def test_coco_results_are_judged_by_pycocotools(annotations: Path, sources: list[Source]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ids = coco.Ids.read(annotations)
    results = json.loads(coco.to_coco_results([found(source) for source in sources[1:]], NAMES, ids))
    assert {one["image_id"] for one in results} == {40, 41} and {one["category_id"] for one in results} == {7, 90}
    truth = COCO(str(annotations))
    judged = COCOeval(truth, truth.loadRes([one for one in results if one["image_id"] == 41]), "bbox")
    judged.params.imgIds = [41]
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)


def test_a_coco_data_set_may_have_the_ids_of_a_file(annotations: Path, sources: list[Source]) -> None:
    whole = json.loads(coco.to_coco([found(sources[2])], NAMES, coco.Ids.read(annotations)))
    assert [image["id"] for image in whole["images"]] == [41] and whole["categories"][0] == {"id": 90, "name": NAMES[0]}
    assert [one["category_id"] for one in whole["annotations"]] == [7, 90]


def test_what_the_file_does_not_know_is_named(annotations: Path, sources: list[Source], tmp_path: Path) -> None:
    ids = coco.Ids.read(annotations)
    with pytest.raises(coco.UnknownToAnnotations, match="instances.json has no picture of this name among its 2"):
        ids.image(found(sources[0]))
    with pytest.raises(coco.UnknownToAnnotations, match="no category 'zebra'; it has person, Straßenbahn"):
        ids.category("zebra")
    (tmp_path / "other.json").write_text("[]")
    for path, says in ((tmp_path / "other.json", "no COCO annotation file"), (tmp_path / "gone.json", "no such file")):
        with pytest.raises(ValueError, match=says):
            coco.Ids.read(path)


def test_label_studio_gets_percentages_and_local_files(sources: list[Source]) -> None:
    (task, web) = json.loads(
        annotation_tools.to_label_studio([found(sources[0]), found(Source("https://a.org/x.jpg", "x.jpg"))], NAMES)
    )
    assert task["data"]["image"] == "/data/local-files/?d=" + sources[0].name.lstrip("/")
    assert web["data"]["image"] == "https://a.org/x.jpg"
    first = task["predictions"][0]["result"][0]
    assert first["value"] == {"rotation": 0, "x": 10, "y": 10, "width": 20, "height": 40, "rectanglelabels": [NAMES[1]]}
    assert (first["original_width"], first["original_height"], first["type"]) == (100, 50, "rectanglelabels")
    interface = ElementTree.fromstring(annotation_tools.label_studio_interface(NAMES).partition("?>")[2])
    assert first["to_name"] == interface[0].get("name") and first["from_name"] == interface[1].get("name")
    assert [label.get("value") for label in interface[1]] == list(NAMES)


def test_cvat_gets_boxes_by_picture(sources: list[Source]) -> None:
    text = annotation_tools.to_cvat([found(source) for source in sources], NAMES)
    root = ElementTree.fromstring(text.partition("?>")[2])
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == list(NAMES)
    images = root.findall("image")
    assert [image.get("name") for image in images] == ["a/x.jpg", "b/x.jpg", "y.png"]
    box = images[0][0].attrib
    assert box["label"] == NAMES[1] and [float(box[edge]) for edge in ("xtl", "ytl", "xbr", "ybr")] == [10, 5, 30, 25]


def test_a_source_with_a_folder_of_images_is_found_by_its_readers(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    for name in ("images/train/a.jpg", "images/b.jpg", "more.images/c.jpg"):
        (tmp_path / "ds" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "ds" / name), picture)
    write_yolo(tmp_path / "out", expand([str(tmp_path / "ds")]))
    dataset = open_dataset(str(tmp_path / "out/data.yaml"))
    assert len(dataset.pictures) == 3 and len(dataset.truth["annotations"]) == 6
    assert sorted(str(p.relative_to(tmp_path / "out/labels")) for p in (tmp_path / "out/labels").rglob("*.txt")) == [
        "b.txt",
        "more.images/c.txt",
        "train/a.txt",
    ]


def test_another_pictures_original_stays(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    for name in ("images/a.jpg", "a/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture)
    listed = [*expand([str(tmp_path / "a")]), *expand([str(tmp_path / "images")])]
    labels = YoloFolder(tmp_path, NAMES, originals=originals(listed))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("by hand")
    with pytest.raises(ValueError, match="is another picture's original"):
        labels.add(found(listed[0]), b"x")
    assert (tmp_path / "labels/a.txt").read_text() == "by hand"
    assert (tmp_path / "images/a.jpg").is_file() and not (tmp_path / "images/a.jpg").is_symlink()


def test_coco_is_read_back_with_the_folder_that_was_named(
    tmp_path: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = expand(["in"])
    Path("out.json").write_text(coco.to_coco([found(source) for source in listed], NAMES))
    dataset = open_dataset("out.json", Path("in"))
    assert len(dataset.pictures) == len(sources) and len(dataset.truth["annotations"]) == 6
    twice = json.loads(
        coco.to_coco([found(listed[0]), found(listed[0], 1), found(Source("other/x", "", "a/x.jpg"))], NAMES)
    )
    assert [image["file_name"] for image in twice["images"]] == ["in/a/x.jpg", "in/a/x.jpg#1", "other/x"]
