"""Rare classes are drawn as often as the method says, to the case, on one rank and on several."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hilum.cohorts.batches import DrawnBatches, EpochBatches
from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.sampling import Decks, draws, shared_out, strata
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError, ConfigError
from hilum.modelling.augmenting.changes import draw
from hilum.preparing import Store, load_sample
from hilum.preparing.subvolumes import cut, random_start
from hilum.randomness import generator
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.toml import load

METHODS = ["none", "over", "under", "combined", "balanced", "progressive"]
counts_of_classes = st.lists(st.integers(1, 400), min_size=1, max_size=6).map(np.array)
few_of_classes = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def labels_of(counts, seed=0):
    """Classes in no order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def places_of(batches):
    return [place for batch in batches for place in batch]


# How many draws


@given(counts_of_classes)
def test_over_and_under_draw_every_class_as_often_as_the_commonest_and_the_rarest(counts):
    assert draws("none", counts).tolist() == counts.tolist()
    assert draws("over", counts).tolist() == [counts.max()] * len(counts)
    assert draws("under", counts).tolist() == [counts.min()] * len(counts)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=4).map(np.array))
def test_combined_draws_meet_at_the_whole_number_nearest_to_the_geometric_mean(counts):
    (each,) = set(draws("combined", counts).tolist())
    assert (2 * each - 1) ** 2 < 4 * int(counts.min()) * int(counts.max()) < (2 * each + 1) ** 2


@given(counts_of_classes)
def test_balanced_draws_are_as_many_as_cases_and_the_same_for_each_class_to_one(counts):
    found = draws("balanced", counts)
    assert found.sum() == counts.sum()
    assert found.max() - found.min() <= 1
    assert found[np.argsort(counts, kind="stable")].tolist() == sorted(found.tolist(), reverse=True)


@given(counts_of_classes, st.data())
def test_progressive_draws_go_from_what_is_there_to_balanced_and_stay_within_one_of_the_formula(counts, data):
    epochs = data.draw(st.integers(2, 50))
    epoch = data.draw(st.integers(1, epochs))
    found = draws("progressive", counts, epoch=epoch, epochs=epochs)
    t, total = Fraction(epoch - 1, epochs - 1), int(counts.sum())
    assert found.sum() == total
    for share, n in zip(found.tolist(), counts.tolist(), strict=True):
        assert abs(share - ((1 - t) * n + t * Fraction(total, len(counts)))) < 1
        assert share >= 1
    assert draws("progressive", counts, epoch=1, epochs=epochs).tolist() == counts.tolist()
    last = draws("progressive", counts, epoch=epochs, epochs=epochs)
    assert last.tolist() == draws("balanced", counts).tolist()


def test_one_epoch_of_progressive_is_its_first():
    assert draws("progressive", np.array([9, 1]), epoch=1, epochs=1).tolist() == [9, 1]


def test_no_share_is_lost_to_floating_point():
    """Shares of 1/3 in floats may add up to a draw less."""
    for epoch in range(1, 8):
        assert draws("progressive", np.array([70_001, 29_999, 7]), epoch=epoch, epochs=7).sum() == 100_007


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_a_case_is_named(method):
    with pytest.raises(CohortError, match=r"every class must have .* got counts \[3, 0, 2\]: none of 1$"):
        draws(method, np.array([3, 0, 2]))
    with pytest.raises(CohortError, match=r"got counts \[2, 1, 0\]: none of 2$"):
        Decks(np.array([0, 1, 0]), method, num_classes=3)


# Who is drawn


@given(few_of_classes, st.sampled_from(METHODS), st.integers(1, 30), st.integers(0, 2))
def test_a_class_has_exactly_its_draws_and_no_case_is_repeated_before_all_are_drawn(counts, method, epoch, seed):
    labels = labels_of(counts)
    decks = Decks(labels, method, seed=seed, epochs=30)
    times = decks.times(epoch)
    wanted = draws(method, np.array(counts), epoch=epoch, epochs=30)
    for number, n in enumerate(counts):
        own = times[labels == number]
        assert own.sum() == wanted[number]
        assert own.max() - own.min() <= 1
        if wanted[number] >= n:
            assert own.min() >= 1, "every case is seen where there is a draw for each"
    assert times.sum() == decks.times(1).sum(), "all epochs have as many draws"


@given(few_of_classes, st.sampled_from(METHODS), st.integers(0, 2))
def test_after_any_number_of_epochs_all_cases_of_a_class_were_drawn_equally_often_to_one(counts, method, seed):
    labels = labels_of(counts)
    decks = Decks(labels, method, seed=seed, epochs=30)
    so_far = np.zeros(len(labels), int)
    for epoch in range(1, 40):
        so_far += decks.times(epoch)
        for number in range(len(counts)):
            own = so_far[labels == number]
            assert own.max() - own.min() <= 1


@given(few_of_classes, st.sampled_from(["under", "combined"]))
def test_all_majority_cases_are_seen_once_there_were_as_many_draws(counts, method):
    labels = labels_of(counts)
    decks = Decks(labels, method)
    needed = -(-max(counts) // int(draws(method, np.array(counts)).min()))
    assert sum(decks.times(epoch) for epoch in range(1, needed + 1)).min() >= 1


@given(few_of_classes, st.sampled_from(METHODS))
def test_an_epoch_is_the_same_whether_earlier_ones_were_drawn_or_not(counts, method):
    labels = labels_of(counts)
    decks = Decks(labels, method, epochs=12)
    onward = [decks.times(epoch).tolist() for epoch in range(1, 13)]
    assert [decks.times(epoch).tolist() for epoch in (3, 3, 2, 9)] == [onward[epoch - 1] for epoch in (3, 3, 2, 9)]
    backward = [Decks(labels, method, epochs=12).times(epoch).tolist() for epoch in range(12, 0, -1)]
    assert onward == backward[::-1]


def test_a_deck_that_is_through_is_shuffled_anew_and_another_seed_deals_otherwise():
    decks = Decks(labels_of([60, 20]), "under", seed=1)
    hands = [frozenset(np.flatnonzero(decks.times(epoch)).tolist()) for epoch in range(1, 7)]
    assert len(set(hands)) == 6
    other = Decks(labels_of([60, 20]), "under", seed=2)
    assert decks.times(1).tolist() != other.times(1).tolist()


def test_two_classes_of_one_size_are_not_dealt_alike():
    times = Decks(np.repeat([0, 1, 2], [50, 50, 5]), "under").times(1)
    assert times[:50].tolist() != times[50:100].tolist()


# Batches of one process


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 5))
def test_without_sampling_the_order_is_what_it_was_before_there_was_any(num_cases, batch_size, epoch):
    order = generator(3, epoch, "order").permutation(num_cases).tolist()
    batches = EpochBatches(num_cases, batch_size, seed=3)
    batches.epoch = epoch
    assert places_of(batches) == order
    sizes = [len(batch) for batch in batches]
    assert set(sizes[:-1]) <= {batch_size}
    assert not sizes or 1 <= sizes[-1] <= batch_size + 1
    if num_cases:
        decks = Decks(np.arange(num_cases) // 9, "none", seed=3)
        same = EpochBatches(num_cases, batch_size, seed=3, decks=decks)
        same.epoch = epoch
        assert list(same) == list(batches)
    assert list(DrawnBatches(batches)) == [[(place, epoch, 0) for place in batch] for batch in batches]


def test_the_order_of_the_first_release_stays():
    assert list(EpochBatches(7, 3, seed=0)) == [[1, 4, 2], [6, 0, 5, 3]]


def test_each_repeat_of_a_case_in_an_epoch_has_a_number_of_its_own():
    labels = labels_of([30, 4])
    decks = Decks(labels, "over", seed=0)
    batches = EpochBatches(34, 8, seed=0, decks=decks)
    batches.epoch = 5
    drawn = places_of(DrawnBatches(batches))
    times = decks.times(5)
    wanted = {(place, 5, copy) for place, many in enumerate(times.tolist()) for copy in range(many)}
    assert len(drawn) == 60
    assert set(drawn) == wanted


@given(few_of_classes, st.sampled_from(METHODS), st.integers(1, 6), st.integers(1, 3), st.data())
def test_an_epoch_goes_on_from_any_batch_as_if_it_had_not_stopped(counts, method, batch_size, world_size, data):
    labels = labels_of(counts)

    def batches(rank):
        decks = Decks(labels, method, seed=1, epochs=5)
        made = EpochBatches(len(labels), batch_size, seed=1, decks=decks, rank=rank, world_size=world_size)
        made.epoch = 3
        return made

    try:
        steps = batches(0).num_batches
    except ConfigError:
        assert world_size > 1
        return
    first = data.draw(st.integers(0, steps))
    for rank in range(world_size):
        whole, rest = list(DrawnBatches(batches(rank))), batches(rank)
        rest.first = first
        assert list(DrawnBatches(rest)) == whole[first:]
        assert len(DrawnBatches(rest)) == len(rest) == steps - first
        assert rest.num_batches == steps


def test_an_epoch_cannot_begin_behind_its_end():
    batches = EpochBatches(10, 3, seed=0)
    batches.first = 4
    with pytest.raises(ConfigError, match="first must be 0 to 3, the batches of an epoch, got 4"):
        list(batches)


def test_decks_are_of_the_same_cases_and_have_a_seed():
    decks = Decks(np.array([0, 1, 1]), "over")
    with pytest.raises(ConfigError, match="decks must be of 4 cases, got 3"):
        EpochBatches(4, 2, seed=0, decks=decks)
    with pytest.raises(ConfigError, match="seed must be given where cases are drawn from decks"):
        EpochBatches(3, 2, decks=decks)
    with pytest.raises(ConfigError, match="rank must be at least 0 and below world_size = 2, got 2"):
        EpochBatches(3, 2, seed=0, rank=2, world_size=2)


# Several ranks


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=4),
    st.sampled_from(METHODS),
    st.integers(1, 9),
    st.integers(2, 5),
    st.integers(1, 9),
)
def test_the_ranks_together_draw_the_epoch_and_no_case_twice(counts, method, batch_size, world_size, epoch):
    labels = labels_of(counts)
    decks = Decks(labels, method, seed=4, epochs=9)
    times = decks.times(epoch)
    try:
        ranks = []
        for rank in reversed(range(world_size)):
            batches = EpochBatches(len(labels), batch_size, seed=4, decks=decks, rank=rank, world_size=world_size)
            batches.epoch = epoch
            ranks.append(list(DrawnBatches(batches)))
    except ConfigError:
        loads = np.bincount(shared_out(times, world_size, generator(0)), weights=times, minlength=world_size)
        assert loads.min() < 2 or loads.max() - loads.min() > 1, "even ranks of two draws or more can always be"
        return
    drawn = Counter(draw for batches in ranks for draw in places_of(batches))
    assert drawn == Counter((place, epoch, copy) for place, many in enumerate(times.tolist()) for copy in range(many))
    seen = [{place for place, *_ in places_of(batches)} for batches in ranks]
    assert sum(map(len, seen)) == len(set().union(*seen)), "no case is on two ranks"
    assert len({len(batches) for batches in ranks}) == 1
    for batches in ranks:
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2
        assert max(sizes) <= max(batch_size + 1, 4)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=50), st.integers(1, 5), st.integers(0, 3))
def test_ranks_differ_by_no_more_draws_than_the_most_repeated_case_has(times, world_size, seed):
    many = np.array(times)
    ranks = shared_out(many, world_size, generator(seed))
    loads = np.bincount(ranks, weights=many, minlength=world_size)
    assert loads.max() - loads.min() <= max(times)
    if times.count(1) >= world_size * max(times):
        assert loads.max() - loads.min() <= 1, "single draws fill what repeats leave"


def test_ranks_get_other_cases_in_each_epoch():
    batches = EpochBatches(40, 5, seed=0, world_size=2)
    epochs = []
    for batches.epoch in (1, 2):
        epochs.append(set(places_of(batches)))
    assert epochs[0] != epochs[1]


def test_fewer_draws_than_the_ranks_need_are_an_error_that_says_so():
    with pytest.raises(ConfigError, match=r"on each of 4 processes.*got 7 draws, 1 to 2 for a process\. Take fewer"):
        len(EpochBatches(7, 2, seed=0, world_size=4))
    assert [len(EpochBatches(8, 2, seed=0, rank=rank, world_size=4)) for rank in range(4)] == [1] * 4


def test_one_case_that_is_repeated_more_than_a_rank_can_draw_is_an_error_that_says_so():
    decks = Decks(np.repeat([0, 1], [900, 1]), "over")
    with pytest.raises(ConfigError, match=r"got 1800 draws, 300 to 900 for a process\. .*repeats cases less often"):
        len(EpochBatches(901, 2, seed=0, decks=decks, world_size=4))


def _train_without_a_network(rank, init, labels, out):  # pragma: no cover (runs in processes of its own)
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=4, timeout=timedelta(seconds=20))
    rows = []
    for method in ("over", "under", "balanced"):
        decks = Decks(labels, method, seed=5, epochs=4)
        batches = EpochBatches(len(labels), 6, seed=5, decks=decks, rank=rank, world_size=4)
        for batches.epoch in (1, 2):
            own, steps = [], 0
            for batch in batches:
                dist.all_reduce(torch.ones(1))  # as gradients are: a rank with fewer batches would let the others wait
                own += batch
                steps += 1
            gathered = [None] * 4
            dist.all_gather_object(gathered, (own, steps))
            rows.append((method, batches.epoch, gathered))
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.destroy_process_group()


def test_four_processes_draw_exact_shares_of_each_class_and_never_the_same_case(tmp_path):
    """The usual weighted sampler, once on each rank, draws a case on several (FIELD: pytorch#77154)."""
    counts = np.array([83, 11, 29])
    labels = labels_of(counts)
    args = (f"file://{tmp_path / 'meet'}", labels, tmp_path / "rows.json")
    torch.multiprocessing.spawn(_train_without_a_network, args=args, nprocs=4)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(method, epoch) for method, epoch, _ in rows] == [
        (method, epoch) for method in ("over", "under", "balanced") for epoch in (1, 2)
    ]
    wanted = {"over": [83, 83, 83], "under": [11, 11, 11], "balanced": [41, 41, 41]}
    for method, _, gathered in rows:
        drawn = [place for own, _ in gathered for place in own]
        assert np.bincount(labels[drawn]).tolist() == wanted[method]
        seen = [set(own) for own, _ in gathered]
        assert sum(map(len, seen)) == len(set().union(*seen)), "no case is on two ranks"
        assert set(np.flatnonzero(labels == 1)) <= set(drawn), "every case of the rarest class is seen"
        assert len({steps for _, steps in gathered}) == 1


# Labels


def test_the_stratum_of_a_case_is_its_rarest_label_or_none_of_them():
    present = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]])
    assert strata(present).tolist() == [1, 2, 0, 3, 3, 2]
    assert strata(present.astype(bool)).tolist() == strata(present.astype(np.float32)).tolist() == [1, 2, 0, 3, 3, 2]


def test_strata_have_no_gaps():
    """The first label never comes without the rarer second, and no case is without a label."""
    assert strata(np.array([[1, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 1]])).tolist() == [0, 2, 1, 2]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30).map(np.array))
def test_strata_can_be_drawn_from_and_are_the_same_for_the_same_labels(present):
    counts = present.sum(axis=0)
    if not counts.all():
        with pytest.raises(CohortError, match="every label must have a training case to be drawn"):
            strata(present)
        return
    classes = strata(present)
    assert Decks(classes, "over").times(1).min() >= 1
    for row, number in zip(present, classes, strict=True):
        rarest = min(np.flatnonzero(row), key=lambda label: counts[label]) if row.any() else None
        alike = [r for r, other in zip(present, classes, strict=True) if other == number]
        assert all(r[rarest] for r in alike) if rarest is not None else not np.any(alike)


def test_labels_that_are_not_known_are_no_strata():
    with pytest.raises(CohortError, match="labels must be 0 or 1 to be sampled by, got nan"):
        strata(np.array([[0.0, 1.0], [1.0, np.nan]]))


# Copies of a case


@pytest.fixture
def drawing(npy_cohort, tmp_path):
    """A data set of volumes of 12 cubed, of which grids of 8 cubed are drawn."""
    config = load(npy_cohort / "config.toml")
    recipe = replace(config.recipe, size=(8, 8, 8), sub_volumes=True)
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    prepared = prepare_cohort(cohort, recipe, Store(tmp_path))
    parts = dict.fromkeys((case.case_id for case in cohort.cases), "train")
    return CohortDataset(prepared, parts, "train", 2, recipe, seed=7)


def test_the_first_copy_of_a_case_is_what_it_was_before_there_were_copies(drawing):
    volume, case_id = load_sample(drawing.prepared.samples[3]), drawing.names[3]
    start = random_start(volume, drawing.recipe, generator(7, 2, case_id, "sub-volume"))
    sample = drawing[(3, 2, 0)]
    assert sample["name"] == drawing[3]["name"] == case_id
    assert np.array_equal(sample["hu"].numpy(), cut(volume, drawing.recipe, start))


def test_copies_of_a_case_show_other_grids_and_are_augmented_otherwise(drawing):
    copies = [drawing[(3, 2, copy)] for copy in range(6)]
    assert len({copy["hu"].numpy().tobytes() for copy in copies}) == 6
    changes = draw(AugmentConfig(), [copy["name"] for copy in copies], seed=0, epoch=2)
    assert len(set(map(repr, changes))) == 6
    again = drawing[(3, 2, 4)]
    assert again["name"] == copies[4]["name"]
    assert torch.equal(again["hu"], copies[4]["hu"])
    other = drawing[(3, 3, 4)]
    assert not torch.equal(other["hu"], copies[4]["hu"])


def test_loading_processes_give_the_copies_that_were_drawn(drawing):
    decks = Decks(drawing.labels, "over", seed=1)
    batches = EpochBatches(len(drawing), 4, seed=1, decks=decks)
    batches.epoch, batches.first = 2, 1
    loader = DataLoader(drawing, batch_sampler=DrawnBatches(batches), num_workers=2)
    wanted = [[drawing[drawn]["name"] for drawn in batch] for batch in DrawnBatches(batches)]
    assert [batch["name"] for batch in loader] == wanted
    assert len(loader) == len(wanted) == batches.num_batches - 1
