"""The workflow as text and SVG."""

import re
import xml.etree.ElementTree as ElementTree

from gpt1.report.dag import as_svg
from pipeline.cli.inspect import draw

DATA = dict.fromkeys(("task_data[task=next]", "task_data[task=same]"), ("split", "clean"))
NEEDS = {
    "ingest": (), "clean": ("ingest",), "split": ("clean",), "pretrain": ("split", "clean"), **DATA,
    "finetune[task=next,seed=1]": ("pretrain", "task_data[task=next]"),
    "finetune[task=same,seed=1]": ("pretrain", "task_data[task=same]"),
    "finetune[task=same,seed=2]": ("pretrain", "task_data[task=same]"),
    "report": ("finetune[task=next,seed=1]", "ingest"),
}  # fmt: skip
ODD = {"pretrain": "stale", "finetune[task=same,seed=1]": "failed", "report": "some <new> state"}
CELLS = [(cell, ODD.get(cell, "done"), list(needs)) for cell, needs in NEEDS.items()]
SVG = "{http://www.w3.org/2000/svg}"


def test_text_groups_cells_indents_by_depth_and_leaves_out_implied_needs() -> None:
    assert draw(CELLS) == (
        "ingest               done\n"
        "  clean              done              <- ingest\n"
        "    split            done              <- clean\n"
        "      pretrain       stale             <- split\n"
        "      task_data x2   done              <- split\n"
        "        finetune x3  2 done, 1 failed  <- pretrain, task_data\n"
        "          report     some <new> state  <- finetune"
    )


def test_a_picture_has_a_box_for_each_stage_in_the_color_of_its_worst_state() -> None:
    svg = ElementTree.fromstring(as_svg(CELLS))
    corners = {(float(box.get("x", -1)), float(box.get("y", -1))) for box in svg.iter(f"{SVG}rect")}
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    assert all(0 < x < width and 0 < y < height for x, y in corners)
    assert (len(corners), len(list(svg.iter(f"{SVG}path")))) == (7, 7)
    boxes = {group.findtext(f"{SVG}text"): group.get("class") for group in svg.iter(f"{SVG}g")}
    assert (boxes["finetune x3"], boxes["task_data x2"]) == ("s-failed", "s-done")


def test_an_arrow_that_passes_a_column_crosses_no_box() -> None:
    needs = {"a": [], "x": [], "b": ["a"], "c": ["b"], "y": ["a"], "d": ["c", "y"], "e": ["d", "x"]}
    svg = ElementTree.fromstring(as_svg([(name, "done", some) for name, some in needs.items()]))
    boxes = [[float(one.get(name, 0)) for name in ("x", "y", "width", "height")]
             for one in svg.iter(f"{SVG}rect")]
    lanes = 0
    for arrow in svg.iter(f"{SVG}path"):
        ends = re.findall(r"([\d.]+) ([\d.]+)(?=h)", arrow.get("d", ""))
        for x, y in (map(float, end) for end in ends):
            assert not any(x == left and top <= y <= top + tall for left, top, _, tall in boxes)
            lanes += 1
    assert (len(boxes), lanes) == (7, 1 + 3)
