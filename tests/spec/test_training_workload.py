"""Training workloads: from a file, from flags, over other kinds; what is refused, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.errors import InfeasibleError, SpecError
from optimizer.layout import ParallelLayout, divisibility_problems
from optimizer.pipeline import optimize
from optimizer.spec.reading import read_job, read_model, read_workload
from optimizer.spec.workload import TrainingWorkload

BATCH = {"global_batch": 1536, "sequence_length": 2048}


def write(folder: Path, text: str) -> Path:
    path = folder / "training.yaml"
    path.write_text(text)
    return path


def test_a_global_batch_is_training(tmp_path: Path) -> None:
    text = "kind: training\nglobal_batch: 1536\nsequence_length: 2048\noptimizer: adam\n"
    found = read_workload(write(tmp_path, text))
    assert isinstance(found, TrainingWorkload)
    assert (found.global_batch, found.sequence_length) == (1536, 2048)
    assert read_workload(write(tmp_path, text.split("\n", 1)[1])) == found


def test_one_choice_needs_no_list(tmp_path: Path) -> None:
    text = "global_batch: 8\nrecompute: full\nsharding: [optimizer, parameters]\nprecision: fp8\n"
    found = read_workload(write(tmp_path, text))
    assert isinstance(found, TrainingWorkload)
    assert found.recompute == ("full",)
    assert found.sharding == ("optimizer", "parameters")
    assert found.precision == ("fp8",)


def test_flags_of_training_replace_a_forward_pass() -> None:
    job = read_job("cases/e", "cases/e", flags={"global_batch": 128})
    assert isinstance(job.workload, TrainingWorkload)
    assert [found.key for found in job.workload.assumptions] == ["sequence_length", "memory_margin"]


def test_the_preset_trains_four_million_tokens_a_step() -> None:
    found = read_workload("train")
    assert isinstance(found, TrainingWorkload)
    assert found.global_batch * found.sequence_length == 2**22


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("global_batch: 1536\nmicro_batch: 5\n", "divide the global batch of 1536, and 5 does not"),
        ("global_batch: 0\n", "must be at least 1"),
        ("global_batch: 8\nbatch: 8\n", "is of training and batch of a forward pass"),
        ("global_batch: 8\nschedules: [gpipe]\n", "1f1b"),
        ("global_batch: 8\nrecompute: []\n", "recompute"),
        ("global_batch: 8\nglobal_bath: 9\n", "global_batch"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_workload(write(tmp_path, text))
    assert message in str(caught.value)
    assert "training.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        (
            ParallelLayout(pp=8, tp=8, dp=7),
            "global batch 1536 cannot be cut by dp 7; the nearest that can: 6 and 8",
        ),
        (
            ParallelLayout(vp=3, tp=8, dp=8),
            "vp 3: one stage cannot interleave; write vp 1, or pp 2 or more",
        ),
        (
            ParallelLayout(pp=8, vp=30, tp=8),
            "pp 8 x vp 30 = 240 chunks for 96 layers, embedding and head: the nearest that fits "
            "is vp 12",
        ),
        (
            ParallelLayout(pp=7, vp=2, tp=8),
            "interleaving needs micro-batches in multiples of pp 7, and 1536 sequences of a rank "
            "give none: the nearest pp that does is 6, or write vp 1",
        ),
        (
            ParallelLayout(pp=100, tp=4),
            "pp 100 is more than the 96 layers: write pp 96 or less",
        ),
        (
            ParallelLayout(cp=5, tp=4),
            "sequence length 2048 in two slices a rank cannot be cut by cp 5; the nearest that "
            "can: 4 and 8",
        ),
    ],
)
def test_a_layout_that_cannot_run_says_so_with_the_nearest_that_can(
    layout: ParallelLayout, problem: str
) -> None:
    workload = read_workload(None, BATCH)
    assert divisibility_problems(layout, read_model("gpt3-175b").model, workload) == [problem]


def test_a_prime_batch_is_not_cut(tmp_path: Path) -> None:
    job = read_job("a100-sxm", "gpt3-175b", flags={**BATCH, "global_batch": 1531}, gpus=512)
    assert optimize(job.cluster, job.model, job.workload, top=1).best.deployment.layout.dp == 1
    with pytest.raises(InfeasibleError, match="global batch 1531 cannot be cut by dp 8"):
        optimize(job.cluster, job.model, job.workload, strategy="PP8-TP8-DP8")
