"""Where a workload comes from: its own file, the model's, flags over both, an assumption."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.errors import SpecError
from optimizer.spec.reading import read_job, read_workload
from optimizer.spec.workload import ForwardWorkload, Limit, ServingWorkload


def write(folder: Path, text: str) -> Path:
    path = folder / "workload.yaml"
    path.write_text(text)
    return path


def test_a_batch_is_a_forward_pass(tmp_path: Path) -> None:
    found = read_workload(write(tmp_path, "batch: 128\nseq_len: 1024\nlatency: 80 ms\n"))
    assert isinstance(found, ForwardWorkload)
    assert (found.batch, found.seq_len) == (128, 1024)
    assert found.latency == Limit(value="80 ms")


def test_limits_are_on_means_unless_a_percentile_is_named(tmp_path: Path) -> None:
    text = "input_len: 8\noutput_len: 8\nttft: 2 s\ntpot: 50 ms p99\n"
    found = read_workload(write(tmp_path, text))
    assert isinstance(found, ServingWorkload)
    assert found.ttft is not None
    assert (found.ttft.value_s, found.ttft.statistic) == (2.0, "mean")
    assert found.tpot is not None
    assert (found.tpot.value_s, found.tpot.statistic) == (0.05, "p99")


def test_flags_win_over_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "input_len: 8\noutput_len: 9\nconcurrency: 5\nengine: vllm\n")
    found = read_workload(path, {"output_len": 10, "request_rate": "3 req/s", "tpot": "40ms"})
    assert isinstance(found, ServingWorkload)
    assert (found.input_len, found.output_len, found.engine) == (8, 10, "vllm")
    assert found.concurrency is None
    assert found.request_rate == 3.0
    assert found.tpot is not None
    assert found.tpot.value_s == 0.04


def test_flags_of_the_other_kind_replace_the_files_kind() -> None:
    job = read_job("cases/d", "cases/d", flags={"input_len": 100, "output_len": 10})
    assert isinstance(job.workload, ServingWorkload)
    assert (job.workload.input_len, job.workload.output_len) == (100, 10)


def test_a_workload_file_wins_over_the_models_own() -> None:
    job = read_job("cases/d", "cases/d", "chat")
    assert isinstance(job.workload, ServingWorkload)


def test_without_any_workload_one_is_assumed_and_listed() -> None:
    found = read_workload()
    assert isinstance(found, ServingWorkload)
    assert {item.key: item.value for item in found.assumptions} == {
        "input_len": "1024",
        "output_len": "1024",
        "memory_margin": "0.05",
    }


def test_an_assumption_that_a_flag_states_is_one_no_longer(tmp_path: Path) -> None:
    path = write(tmp_path, "batch: 4\nassumed: {seq_len: 512, why: a guess}\nmemory_margin: 0.1\n")
    assert [item.why for item in read_workload(path).assumptions] == ["a guess"]
    found = read_workload(path, {"seq_len": 256})
    assert found.assumptions == ()
    assert found.seq_len == 256


def test_flags_of_two_kinds_contradict_each_other() -> None:
    with pytest.raises(SpecError) as caught:
        read_workload(None, {"batch": 3, "input_len": 5})
    (problem,) = caught.value.problems
    assert problem.key == "--input-len"
    assert "give one kind" in problem.message


@pytest.mark.parametrize(
    ("flags", "key", "message"),
    [
        ({"ttft": "2"}, "--ttft", "'2' has no unit; write for example '50 ms'"),
        ({"concurrency": 0}, "--concurrency", "must be at least 1, not 0"),
        ({"request_rate": "fast"}, "--request-rate", "write for example '20 req/s'"),
        ({"seq_len": 4, "batch": -1}, "--batch", "must be at least 1, not -1"),
    ],
)
def test_a_wrong_flag_is_called_by_its_name(
    flags: dict[str, object], key: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read_workload(None, flags)
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == (None, key)
    assert message in problem.message
