"""Progressive metrics of a run, read from its versions and averaged over replicates by hand."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from tiny_learners import make_learner, make_samples

from ifa_ray.checkpoints.format import save_checkpoint, version_folder
from ifa_ray.cli import main
from ifa_ray.data.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two arms, two replicates, three versions; and the metrics that were published."""
    folder, published = RunFolder(tmp_path_factory.mktemp("run")), {}
    for arm in ("twin", "ifa"):
        for replicate in range(2):
            learner = make_learner(arm, seed=replicate)
            for version in range(3):
                metrics = learner.train(make_samples(6, seed=10 * replicate + version)).to_dict()
                published[arm, replicate, version] = metrics
                root = folder.models(arm, replicate)
                save_checkpoint(version_folder(root, version), learner, version=version,
                                log_watermark={}, metrics=metrics)  # fmt: skip
    return folder.root, published


def progress(run, capsys, *more):
    status = main(["versions", "progress", str(run), *more])
    return status, capsys.readouterr()


def test_values_are_means_over_replicates_of_what_was_published(run, capsys):
    root, published = run
    status, shown = progress(root, capsys, "--json", "--metric", "log_loss")
    found = json.loads(shown.out)
    assert status == 0
    assert (found["replicates"], found["metric"], found["objective"]) == (
        2,
        "log_loss",
        "impression",
    )
    for arm in ("twin", "ifa"):
        pairs = [[published[arm, r, v]["log_loss"]["impression"] for r in (0, 1)] for v in range(3)]
        assert found["values"][arm] == pytest.approx([sum(pair) / 2 for pair in pairs])
        assert found["requests"][arm] == [12, 12, 12]


def test_the_table_has_a_row_for_each_arm_and_the_figure_a_line(run, capsys, tmp_path):
    root, published = run
    svg = tmp_path / "auc.svg"
    status, shown = progress(root, capsys, "--objective", "is_click", "--svg", str(svg))
    lines = shown.out.splitlines()
    assert status == 0
    assert lines[0] == "Progressive AUC of p(objective|candidate): is_click; replicates: 2"
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines[2:]}
    mean = sum(published["twin", r, 2]["auc"]["is_click"] for r in (0, 1)) / 2
    assert rows["twin"][2].strip() == f"{mean:.3f}"
    assert rows.keys() >= {"twin", "ifa"}
    drawn = ElementTree.parse(svg).getroot()
    words = " ".join(element.text or "" for element in drawn.iter()).split()
    assert {"twin", "ifa"} <= set(words)


def test_a_version_that_one_replicate_lacks_is_not_shown(run, capsys, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(version_folder(RunFolder(tmp_path / "run").models("ifa", 1), 2))
    _, shown = progress(tmp_path / "run", capsys, "--json")
    assert [len(v) for v in json.loads(shown.out)["values"].values()] == [2, 3]


def test_mistakes_are_one_line(run, capsys, tmp_path):
    for arguments, message in (
        ((tmp_path,), "must be the folder of a run that has published versions"),
        ((run[0], "--metric", "acu"), "Did you mean 'auc'"),
        ((run[0], "--objective", "click"), "Did you mean 'is_click'"),
    ):
        status, shown = progress(arguments[0], capsys, *arguments[1:])
        assert status == 2
        assert message in shown.err
