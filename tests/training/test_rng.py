import torch

from stemsplit.training.rng import bernoulli, derive_seed, generator, integer, uniform


def test_the_same_key_gives_the_same_numbers() -> None:
    first, again = generator(1, "crop", 5), generator(1, "crop", 5)
    assert torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=again))


def test_every_key_has_its_own_seed() -> None:
    places = [(seed, name, index) for seed in range(3) for name in ("crop", "gain") for index in range(200)]
    assert len({derive_seed(*place) for place in places}) == len(places)
    assert derive_seed(1, 23) != derive_seed(12, 3)  # digits of neighbours don't run together
    assert all(0 <= derive_seed(*place) < 2**63 for place in places)


def test_the_seed_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert derive_seed(42, "crop", 0) == 1491761786667301531


def test_the_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    rng = generator(3, 4)
    uniform(rng, 0, 1), integer(rng, 0, 9), bernoulli(rng, 0.5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_ranges() -> None:
    rng = generator(0)
    assert {integer(rng, -2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    drawn = [uniform(rng, 3, 5) for _ in range(1000)]
    assert 3 <= min(drawn) < 3.05 and 4.95 < max(drawn) < 5
    assert not any(bernoulli(rng, 0.0) for _ in range(100)) and all(bernoulli(rng, 1.0) for _ in range(100))
    assert 220 < sum(bernoulli(rng, 0.25) for _ in range(1000)) < 280
