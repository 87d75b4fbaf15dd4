"""Plans on nodes of different size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from optimizer.pipeline import optimize
from optimizer.spec.reading import read_job


def test_no_gpu_of_a_stage_is_left_alone_behind_its_slow_link(tmp_path: Path) -> None:
    """Of nodes with 8, 7 and 7 live GPUs two EP8 stages would each have one GPU elsewhere, which
    sends 7/8 of its tokens over one network card; stages of four fit the nodes."""
    cluster = tmp_path / "three.yaml"
    cluster.write_text("preset: h200-sxm\nnodes: 3\ndead: [node1/gpu3, node2/gpu7]\n")
    job = read_job(cluster, "deepseek-v3")
    deployment = optimize(job.cluster, job.model, job.workload, top=1).best.deployment
    width = deployment.layout.width
    for replica in deployment.placement.rank_gpu:
        for first in range(0, len(replica), width):
            nodes = Counter(gpu.partition("/")[0] for gpu in replica[first : first + width])
            assert len(set(nodes.values())) == 1
