"""The commands that only look: `doctor`, `describe`; completion, options."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.options import RunOptions, with_options
from tests.conftest import ROOT
from tests.pipeline.inprocess import gpt1, refused


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / ("x" * 90)).mkdir()
    server, folder = "http://me:secret@127.0.0.1:1", str(tmp_path / ("x" * 90))
    variables = {"MLFLOW_TRACKING_URI": server, "RAY_TMPDIR": folder}
    ended = gpt1("doctor", "--json", "--store", tmp_path / "file", **variables)
    assert (ended.status, "secret" in ended.out) == (1, False), ended
    found = {one["name"]: one["state"] for one in json.loads(ended.out) if one["fix"]}
    expected = {"store": "fail", "Ray folder": "fail", "MLflow server": "warn"}
    assert expected.items() < found.items()


def test_doctor_asks_for_the_bucket(s3_store: str) -> None:
    for store, state in ((s3_store, "ok"), (s3_store.replace("store-bucket", "other"), "fail")):
        found = json.loads(gpt1("doctor", "--json", GPT1_STORE=store).out)
        assert [one["state"] for one in found if one["name"] == "store"] == [state]


ALL = RunOptions(
    ["split", "total[factor=1]"], Path("w.yaml"), "demo", ["a.b=1", "c.d=[1, 2]"], "s3://b/x",
    "clean", True, True, True, "rerun", "2h",
)  # fmt: skip


@pytest.mark.parametrize("options", [RunOptions(), ALL], ids=["none", "all"])
def test_the_arguments_of_a_job_mean_the_options_of_submit(options: RunOptions) -> None:
    app, parsed = typer.Typer(), list[RunOptions]()

    @app.command()
    @with_options
    def command(options: RunOptions) -> None:
        parsed.append(options)

    ended = CliRunner().invoke(app, options.to_args(), catch_exceptions=False)
    assert (ended.exit_code, parsed) == (0, [options]), ended.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_words(shell: str) -> None:
    variables = {"_GPT1_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for words, offered in {
        "gpt1 do": "doctor", "gpt1 run --profile on": "one-gpu", "gpt1 run ze": "zero_shot",
        "gpt1 plan --file nowhere.yaml --profile d": "",
    }.items():
        place = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        ended = gpt1(cwd=ROOT, _TYPER_COMPLETE_ARGS=words, **place, **variables)
        assert (offered in ended.out, "error" in ended.out.lower()) == (True, False), ended


def test_describe_forecasts_the_papers_training() -> None:
    words = "describe --file workflow.yaml --tokens 1000000000 --device H100 --mfu 0.5 --json"
    row, lstm = gpt1(*words.split(), cwd=ROOT).json()
    sizes = {one["cell"]: one["parameters"] for one in (row, lstm)}
    assert sizes == {"pretrain[model=gpt]": 116_534_784, "pretrain[model=lstm]": 56_140_544}
    assert (row["steps"], row["epochs"], row["ranks"]) == (1_000_000, 32.768, 8)
    assert row["seconds"] == pytest.approx(32.768e9 * 755.8e6 / (67e12 * 0.5 * 8), rel=1e-3)
    refused("Toaster", "describe", "--device", "Toaster", cwd=ROOT)
