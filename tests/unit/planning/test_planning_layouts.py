"""Which layouts there are, how blocks are cut into stages, and what a search gives."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest

from mix_core.errors import BadInputError
from mix_core.planning.layouts import (
    balanced,
    divisors,
    grids,
    micro_batches,
    replications,
    splits_of,
    tensor_degrees,
)
from mix_core.planning.machine import ASSUMED, figures_of, machine_of, memory_of
from mix_core.planning.memory import BUCKET_BYTES, Setting
from mix_core.planning.model import outline_of
from mix_core.planning.request import Asked
from mix_core.planning.search import Wanted, search
from mix_core.planning.timing import StepTime
from mix_core.planning.work import Numbers

SEVEN = outline_of("qwen2_5_vl-7b")


def wanted(devices: int, batch: int, **changes) -> Wanted:
    base = Wanted(
        outline=SEVEN,
        devices=devices,
        memory=64 << 30,
        sequence=8192,
        batch=batch,
        tiles=4,
        setting=Setting(Numbers.of("bfloat16", "O2")),
        machine=machine_of(None, "bfloat16", {}),
    )
    return replace(base, **changes)


def test_tensor_degrees_that_do_not_divide_are_refused_by_number():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    fine, refused = tensor_degrees(SEVEN, 64, 64)
    assert fine == [1, 2, 4]
    assert "tensor 8 does not divide 28 heads" in [refusal.why for refusal in refused]
    assert tensor_degrees(outline_of("qwen2_5_vl-3b"), 8, 8)[0] == [1, 2]  # two key/value heads
    _, refused = grids(SEVEN, 128, 8, (1.0, 1.0, 0.0))
    assert "pipeline 64 has more stages than 60 blocks" in [refusal.why for refusal in refused]


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_a_balanced_cut_is_the_best_one(pieces):
    layers, (tower, decoder, head) = (3, 5), (1.0, 3.0, 4.0)
    costs = [tower] * 3 + [decoder] * 4 + [decoder + head]
    best = min(
        max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *ends, 8)))
        for ends in itertools.combinations(range(1, 8), pieces - 1)
    )
    stages = balanced(layers, pieces, tower, decoder, head)
    assert sum(stage.tower_layers for stage in stages) == 3
    assert sum(stage.decoder_layers for stage in stages) == 5
    own = [
        stage.tower_layers * tower + stage.decoder_layers * decoder + stage.last * head for stage in stages
    ]
    assert max(own) == pytest.approx(best) and min(own) > 0
    assert [stage.first for stage in stages].count(True) == [stage.joins for stage in stages].count(True) == 1


def test_given_stages_are_checked():
    """MindSpeed-MM's example, and the form of it that works."""
    with pytest.raises(BadInputError, match=r"30,2,0,0 .*1,10,10,7.*stage 1 has vision layers after decoder"):
        splits_of(SEVEN, [30, 2, 0, 0], [1, 10, 10, 7])
    stages = splits_of(SEVEN, [32, 0, 0, 0], [1, 10, 10, 7]).stages
    assert [(one.tower_layers, one.decoder_layers) for (one,) in stages] == [
        (32, 1),
        (0, 10),
        (0, 10),
        (0, 7),
    ]
    assert [one.joins for (one,) in stages] == [True, False, False, False]
    with pytest.raises(BadInputError, match="adds up to 31; the model has 32"):
        splits_of(SEVEN, [31, 0], [14, 14])
    with pytest.raises(BadInputError, match="has 2 stages and --decoder_split 1"):
        splits_of(SEVEN, [16, 16], [28])


def test_replicas_and_passes_multiply_to_devices_and_batch():
    divided, _ = grids(SEVEN, 64, 8, (1.0, 1.0, 0.0))
    for grid in divided:
        for data, sharding, stage in replications(64, grid, 256):
            assert data * sharding * grid.devices == 64 and (stage == 0) == (sharding == 1)
            for micro, passes in micro_batches(256, data * sharding, grid):
                assert micro * passes * data * sharding == 256
                assert grid.interleave == 1 or passes % grid.pipeline == 0


def test_plans_fit_and_share_out_what_they_say():
    found = search(wanted(64, 256))
    assert found.plans and found.seen > 1000
    room = wanted(64, 256).room
    times = [plan.time.total for plan in found.plans]
    assert times == sorted(times)
    for plan in found.plans:
        assert plan.worst.total <= room < 64 << 30
        layout = plan.layout
        assert layout.replicas * layout.grid.devices == 64
        assert sum(piece.decoder_layers for stage in layout.grid.stages for piece in stage) == 28
    alike = {}
    for plan in found.plans:
        layout = plan.layout
        alike.setdefault((layout.grid, layout.micro, layout.recompute), {})[layout.sharding, layout.stage] = (
            plan
        )
    compared = 0
    for group in alike.values():
        for sharding, stage in group:
            if stage == 2 and (sharding, 1) in group and (sharding, 3) in group:
                stages = zip(*(group[sharding, one].memory for one in (1, 2, 3)))
                for first, second, third in stages:
                    assert first.optimizer == second.optimizer == third.optimizer
                    assert first.total + 2 * BUCKET_BYTES >= second.total
                    assert abs(third.weights * sharding - second.weights) < sharding
                compared += 1
    assert compared


def test_more_devices_memory_or_links_are_never_slower():
    def best(devices: int, **changes) -> StepTime:
        plain = wanted(devices, 64, recompute=("none",), outline=outline_of("internvl2-2b"))
        return search(replace(plain, **changes)).plans[0].time

    slow = best(8)
    assert best(16).total < slow.total < 2.5 * best(16).total
    assert best(8, memory=24 << 30).total >= slow.total
    links = machine_of(None, "bfloat16", {"network_bandwidth": 2.5e9})
    assert best(16, machine=links).total > best(16).total
    hidden = best(16, overlap=True)
    assert hidden.total <= best(16).total and hidden.hidden > 0


def test_sixteen_thousand_devices_are_searched_in_time():
    started = time.process_time()
    found = search(wanted(16384, 16384))
    assert time.process_time() - started < 4.0
    assert found.plans and found.seen > 5000
    assert found.plans[0].layout.replicas * found.plans[0].layout.grid.devices == 16384


def test_a_bubble_shrinks_with_passes_and_pieces():
    plans = search(wanted(4, 256, memory=10**12, recompute=("none",))).plans
    of = {
        (plan.layout.grid.pipeline, plan.layout.grid.interleave, plan.layout.micro): plan
        for plan in plans
        if plan.layout.grid.tensor == 1 and plan.layout.replicas == 1
    }
    assert of[4, 1, 8].time.bubble > of[4, 1, 1].time.bubble
    assert of[4, 2, 8].time.bubble < of[4, 1, 8].time.bubble


def test_figures_come_with_their_source():
    machine = machine_of(None, "bfloat16", figures_of(["peak_flops=1e15", "efficiency=0.5"]))
    assert machine.peak_flops == 1e15 and machine.sources["peak_flops"] == "given"
    assert machine.sources["network_bandwidth"] == ASSUMED
    assert (
        machine.bandwidth(8) == machine.link_bandwidth and machine.bandwidth(9) == machine.network_bandwidth
    )
    for wrong in ("peak=1", "peak_flops=fast"):
        with pytest.raises(BadInputError, match="--figure"):
            figures_of([wrong])
    for wrong in ({"efficiency": 1.5}, {"peak_flops": -1.0}):
        with pytest.raises(BadInputError, match="expected a number above 0"):
            machine_of(None, "float32", wrong)


@pytest.mark.parametrize(("text", "size"), [("64GiB", 64 << 30), ("80 GB", 80 * 10**9), ("1.5GiB", 3 << 29)])
def test_memory_needs_its_unit(text, size):
    assert memory_of(text, None) == size
    for wrong in ("64", "64 gigs", "0GiB", "-1GiB", ""):
        with pytest.raises(BadInputError, match="expected a size with its unit"):
            memory_of(wrong, None)


def test_options_are_checked_together():
    fine = Asked(model="internvl2-2b", devices=8, memory="32GiB")
    assert fine.wanted().tiles == 1.0
    for changes, says in (
        ({"devices": 0}, "--devices is 0; expected 1 or more"),
        ({"seq": 0}, "--seq is 0"),
        ({"tiles": 99.0}, "takes 25344 tokens of pictures, a row has 2048"),
        ({"recompute": "some"}, "expected one of auto, none, selective, full"),
        ({"vision_split": "24"}, "give both --vision_split and --decoder_split"),
        ({"vision_split": "a", "decoder_split": "24"}, "'a' is no list of layers"),
        ({"memory": None}, "give --memory"),
    ):
        with pytest.raises(BadInputError, match=says.replace("(", r"\(")):
            replace(fine, **changes).wanted()
