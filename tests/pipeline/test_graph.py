"""The workflow as text, Mermaid and SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from pipeline.graph import as_mermaid, as_svg, as_text

CELLS = [
    ("ingest", "done", []),
    ("clean", "done", ["ingest"]),
    ("split", "done", ["clean"]),
    ("pretrain", "stale", ["split", "clean"]),
    ("task_data[task=next]", "done", ["split", "clean"]),
    ("task_data[task=same]", "done", ["split", "clean"]),
    ("finetune[task=next,seed=1]", "done", ["pretrain", "task_data[task=next]"]),
    ("finetune[task=same,seed=1]", "failed", ["pretrain", "task_data[task=same]"]),
    ("finetune[task=same,seed=2]", "done", ["pretrain", "task_data[task=same]"]),
    ("report", "some <new> state", ["finetune[task=next,seed=1]", "ingest"]),
]


def test_text_groups_cells_indents_by_depth_and_leaves_out_implied_needs() -> None:
    assert as_text(CELLS) == (
        "ingest               done\n"
        "  clean              done              <- ingest\n"
        "    split            done              <- clean\n"
        "      pretrain       stale             <- split\n"
        "      task_data x2   done              <- split\n"
        "        finetune x3  2 done, 1 failed  <- pretrain, task_data\n"
        "          report     some <new> state  <- finetune\n"
    )


def test_svg_is_well_formed_and_boxes_do_not_overlap() -> None:
    name = "{http://www.w3.org/2000/svg}"
    svg = ElementTree.fromstring(as_svg(CELLS))
    corners = {(float(rect.get("x", -1)), float(rect.get("y", -1))) for rect in svg.iter(f"{name}rect")}
    texts = [text.text for text in svg.iter(f"{name}text")]
    assert len(corners) == 7
    assert "finetune x3" in texts
    assert "some <new> state" in texts
    assert len(list(svg.iter(f"{name}path"))) == 7
    assert all(0 < x < float(svg.get("width", 0)) and 0 < y < float(svg.get("height", 0)) for x, y in corners)
    assert "prefers-color-scheme:dark" in "".join(style.text or "" for style in svg.iter(f"{name}style"))


def test_a_group_shows_its_worst_state() -> None:
    name = "{http://www.w3.org/2000/svg}"
    boxes = {group.findtext(f"{name}text"): group.get("class") for group in ElementTree.fromstring(as_svg(CELLS)).iter(f"{name}g")}
    assert boxes["finetune x3"] == "s-failed"
    assert boxes["task_data x2"] == "s-done"


def test_mermaid_has_every_box_and_edge() -> None:
    lines = as_mermaid(CELLS).splitlines()
    assert lines[0] == "flowchart LR"
    assert sum(" --> " in line for line in lines) == 7
    assert '  n5["finetune x3<br/>2 done, 1 failed"]:::s-failed' in lines
    assert sum(line.startswith("  classDef s-failed ") for line in lines) == 1


def test_an_empty_workflow() -> None:
    assert as_text([]).strip() == ""
    ElementTree.fromstring(as_svg([]))
