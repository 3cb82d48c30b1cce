"""Results as tasks of annotation tools, by their documented import formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from .formats import Found, rows


def to_label_studio(results: Sequence[Found], names: Sequence[str]) -> str:
    """Tasks with pre-annotations (https://labelstud.io/guide/predictions).

    Pictures of this machine are named as Label Studio's local files with the document root /. The labelling interface
    has to have an Image `image` and RectangleLabels `label`; `label_studio_interface` is one.
    """
    tasks = []
    for found in results:
        width, height = found.size_wh
        regions: list[dict[str, Any]] = [
            {
                "id": f"{number}",
                "from_name": "label",
                "to_name": "image",
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": round(score, 4),
                "value": {
                    "rotation": 0,
                    "x": 100 * left / width,
                    "y": 100 * top / height,
                    "width": 100 * (right - left) / width,
                    "height": 100 * (bottom - top) / height,
                    "rectanglelabels": [name],
                },
            }
            for number, ((left, top, right, bottom), score, _, name) in enumerate(rows(found.detections), start=1)
        ]
        best = max((region["score"] for region in regions), default=0.0)
        tasks.append(
            {
                "data": {"image": _address(found)},
                "predictions": [{"model_version": "nas-triton", "score": best, "result": regions}],
            }
        )
    return json.dumps(tasks, indent=2, ensure_ascii=False) + "\n"


def label_studio_interface(names: Sequence[str]) -> str:
    """Labelling interface for a project that takes the tasks."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ElementTree.SubElement(labels, "Label", value=name)
    return _text(view)


def to_cvat(results: Sequence[Found], names: Sequence[str]) -> str:
    """Annotations "CVAT for images 1.1" (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat).

    Upload them to a task that has the same pictures, by the same names.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "attributes")
    for number, found in enumerate(results):
        width, height = found.size_wh
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=found.source.relative, width=str(width), height=str(height)
        )
        for box, _, _, name in rows(found.detections):
            attributes = {"label": name, "source": "auto", "occluded": "0"}
            attributes |= {edge: f"{value:.2f}" for edge, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)}
            ElementTree.SubElement(image, "box", attributes | {"z_order": "0"})
    return _text(root)


def _address(found: Found) -> str:
    """Where Label Studio finds the picture."""
    path = Path(found.source.name)
    if not path.is_file():
        return found.source.name
    return "/data/local-files/?d=" + quote(str(path.resolve()).lstrip("/"))


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
