"""Every preset loads, from any directory, under its name and under its repository's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.errors import SpecError
from optimizer.spec.presets import model_repositories, preset_paths
from optimizer.spec.reading import read_cluster, read_job, read_model, read_workload

# Per GPU: memory GiB, memory GB/s, bf16 TFLOP/s, intra and inter GB/s (vendors' datasheets).
HARDWARE = {
    "h100-sxm": (80, 3350, 989, 450, 50),
    "h200-sxm": (141, 4800, 989, 450, 50),
    "b200-sxm": (180, 7700, 2250, 900, 100),
    "b300-sxm": (268.6, 7750, 2250, 900, 100),
    "gb200": (185, 8000, 2500, 900, 100),
    "gb300": (277.5, 8000, 2500, 900, 100),
    "a100-sxm": (80, 2039, 312, 300, 25),
    "a100-sxm-40": (40, 1555, 312, 300, 25),
    "h800-sxm": (80, 3350, 989, 200, 50),
    "h100-sxm-96": (96, 2400, 989, 450, 50),
    "a100-pcie": (80, 1935, 312, 32, 25),
    "h100-pcie": (80, 2000, 756.5, 64, 50),
    "l40s": (45, 864, 362, 32, 50),
    "l4": (24, 300, 121, 32, 25),
    "a30": (24, 933, 165, 32, 25),
    "rtx-pro-6000": (95.6, 1792, 468, 64, 50),
    "mi300x": (192, 5300, 1307, 448, 50),
}


@pytest.mark.parametrize("name", HARDWARE)
def test_a_hardware_preset_holds_its_datasheet(name: str) -> None:
    pool = read_cluster(name).pools[0]
    memory, bandwidth, bf16, intra, inter = HARDWARE[name]
    assert pool.gpu.memory_bytes == pytest.approx(memory * 2**30)
    assert pool.gpu.memory_bandwidth_bytes_per_s == bandwidth * 1e9
    assert pool.gpu.flops_per_s["bf16"] == bf16 * 1e12
    assert pool.intra_node.bandwidth_bytes_per_s == intra * 1e9
    assert pool.inter_node.bandwidth_bytes_per_s == inter * 1e9
    assert pool.gpu.generation != "generic"
    assert pool.source


def test_every_hardware_preset_is_in_the_table() -> None:
    assert set(preset_paths("hardware")) == set(HARDWARE)


@pytest.mark.parametrize("name", HARDWARE)
def test_the_latencies_of_a_preset_are_assumptions(name: str) -> None:
    assumed = {found.key for found in read_cluster(name).assumptions}
    assert assumed == {"intra_node.latency", "inter_node.latency"}


@pytest.mark.parametrize("name", ["a100-sxm", "a100-sxm-40", "a100-pcie", "a30"])
def test_ampere_has_no_fp8(name: str) -> None:
    gpu = read_cluster(name).pools[0].gpu
    assert set(gpu.flops_per_s) == {"bf16"}
    assert gpu.peak_flops_per_s("fp8") == gpu.flops_per_s["bf16"]


def test_a_grace_blackwell_rack_is_one_domain_of_72() -> None:
    cluster = read_cluster("gb200")
    assert cluster.pools[0].sizes == (4,) * 18
    assert [len(domain.gpus) for domain in cluster.domains] == [72]


@pytest.mark.parametrize("name", preset_paths("models"))
def test_a_model_preset_loads_and_every_key_of_its_config_is_known(name: str) -> None:
    model = read_model(name).model
    assert model.name == name
    assert model.max_context is not None
    assert model.notes == ()


@pytest.mark.parametrize(("name", "repository"), model_repositories().items())
def test_a_repository_name_finds_its_preset(name: str, repository: str) -> None:
    assert read_model(repository).model == read_model(name).model


@pytest.mark.parametrize("name", preset_paths("workloads"))
def test_a_named_workload_loads(name: str) -> None:
    assert read_workload(name).engine == "any"


@pytest.mark.parametrize("case", "abcde")
def test_the_five_cases_load_from_anywhere(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = read_job(f"configs/cases/{case}/hardware.yaml", f"cases/{case}")
    assert job.cluster.num_live_gpus == {"a": 128, "b": 128, "c": 16, "d": 128, "e": 16}[case]
    assert job.model.name == f"report-{case}"
    assert job.workload.kind == "forward"
    assert job.strategy is not None


def test_case_e_adds_up_to_its_30_billion_parameters() -> None:
    found = {item.key: item for item in read_model("cases/e").model.assumptions}
    assert found["num_parameters"].value == "30 B"
    assert "hidden_size" in found


@pytest.mark.parametrize(
    ("wrong", "meant"), [("h200sxm", "h200-sxm"), ("h2000-sxm", "h200-sxm"), ("mi300", "mi300x")]
)
def test_an_unknown_preset_names_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(SpecError, match=f"did you mean '{meant}'") as caught:
        read_cluster(wrong)
    assert caught.value.exit_code == 2
    assert all(name in str(caught.value) for name in HARDWARE)


def test_a_preset_wins_over_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l4").mkdir()
    assert read_cluster("l4").pools[0].gpu.name == "L4"
    (tmp_path / "l4" / "hardware.yaml").write_text("preset: l4\nname: mine\n")
    assert read_cluster("./l4").name == "mine"


@pytest.mark.parametrize("source", ["missing.yaml", "no/such/config.json"])
def test_a_missing_file_is_called_one(source: str) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_model(source)


@pytest.mark.parametrize("source", ["x" * 10_000, "\0", "../nowhere", "", "cases/z"])
def test_a_strange_name_is_refused(source: str) -> None:
    with pytest.raises(SpecError):
        read_cluster(source)
