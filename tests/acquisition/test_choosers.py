import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from napari_smarttem.acquisition.choosers import choosers, propose, propose_with_remarks
from napari_smarttem.acquisition.overview import noise_map, prepare
from napari_smarttem.acquisition.settings import parse
from napari_smarttem.schema import BadInput, image_frame, spectrum_frame

from .microscope import DISCS, rim_distance, scene_frame

MANUAL = {"positions_nm": [[10.0, 20.0], [64.0, 64.0], [1000.0, 0.0]]}


def settings(chooser, **fields):
    if chooser == "manual":
        fields.setdefault("chooser_settings", MANUAL)
    return parse({"chooser": chooser} | fields)


def on_particle(target, slack=1.5):
    return any(np.hypot(target.y_nm - y, target.x_nm - x) <= radius + slack for y, x, radius in DISCS)


@pytest.fixture(scope="module")
def overview():
    return scene_frame(np.random.default_rng(0))


def test_edges_lie_on_edges(overview):
    targets = propose(overview, settings("edges", points=60))
    assert len(targets) == 60
    distances = np.array([rim_distance(t.y_nm, t.x_nm) for t in targets])
    assert np.quantile(distances, 0.9) <= 1.5
    assert all("the noise at" in t.reason and t.label == "edge" for t in targets)
    angles = {(i, round(np.arctan2(t.y_nm - y, t.x_nm - x))) for t in targets for i, (y, x, r) in enumerate(DISCS)
              if abs(np.hypot(t.y_nm - y, t.x_nm - x) - r) < 2}  # fmt: skip
    assert len(angles) >= 20, "they go all around all particles"


def test_edges_are_not_found_in_noise():
    found = [
        len(propose(image_frame(np.random.default_rng(s).poisson(40.0, (96, 96)).astype(float), pixel_nm=1.0, signal="HAADF"),
                    settings("edges")))
        for s in range(10)
    ]  # fmt: skip
    assert np.mean(found) <= 1.0


def test_edges_outlive_noise_at_a_coarser_scale():
    rng = np.random.default_rng(2)
    x = np.arange(128)[None, :] * np.ones((128, 1))
    step = np.where(x >= 64, 12.0, 10.0)  # 2 grey levels in noise of 3
    targets = propose(
        image_frame(step + rng.normal(0, 3, step.shape), pixel_nm=0.5, signal="BF"), settings("edges", points=20)
    )
    assert len(targets) >= 10
    assert np.median([abs(t.x_nm - 31.75) for t in targets]) <= 1.5


def test_anomalies_are_the_particles_and_nothing_in_a_featureless_film(overview):
    targets = propose(overview, settings("anomalies", points=40))
    assert np.mean([on_particle(t, slack=3.0) for t in targets]) >= 0.9, "half a patch beyond the rim at most"
    film = image_frame(np.random.default_rng(1).poisson(40.0, (96, 96)).astype(float), pixel_nm=1.0, signal="HAADF")
    assert len(propose(film, settings("anomalies", points=40))) <= 3


def test_one_odd_place_is_the_first_anomaly():
    rng = np.random.default_rng(4)
    y, x = np.indices((128, 128))
    lattice = 100 + 30 * np.cos(2 * np.pi * y / 9) * np.cos(2 * np.pi * x / 9)
    lattice += 40 * np.exp(-0.5 * ((y - 64) ** 2 + (x - 85) ** 2) / 4)  # one heavy column between the others
    frame = image_frame(rng.poisson(lattice).astype(float), pixel_nm=1.0, signal="HAADF")
    best = propose(frame, settings("anomalies", points=5, chooser_settings={"usual": 0.99}))[0]
    assert np.hypot(best.y_nm - 64, best.x_nm - 85) <= 3


@pytest.mark.parametrize("method", ["k-means", "gmm"])
def test_rare_kinds_get_their_quota(overview, method):
    targets = propose(overview, settings("clusters", points=60, chooser_settings={"method": method}))
    area = sum(np.pi * r**2 for _, _, r in DISCS) / 128**2
    assert np.mean([on_particle(t) for t in targets]) >= 3 * area
    assert len({t.label for t in targets}) == 4
    assert "% of the overview" in targets[0].reason


@pytest.mark.parametrize("places", ["centre", "boundary", "inside"])
def test_points_in_regions_are_where_they_were_asked_for(overview, places):
    targets = propose(overview, settings("regions", points=24, chooser_settings={"places": [places]}))
    if places == "centre":
        found = {min(range(4), key=lambda i: np.hypot(t.y_nm - DISCS[i][0], t.x_nm - DISCS[i][1])) for t in targets}
        assert found == {0, 1, 2, 3}
        assert len(targets) == 4
        for t in targets:
            assert min(np.hypot(t.y_nm - y, t.x_nm - x) for y, x, _ in DISCS) <= 3
    elif places == "boundary":
        assert len(targets) == 24
        assert max(rim_distance(t.y_nm, t.x_nm) for t in targets) <= 2.0
    else:
        assert len(targets) == 24
        assert all(on_particle(t) for t in targets)
        assert len({t.label for t in targets}) == 4


def test_the_grid_is_a_grid(overview):
    targets = propose(overview, settings("grid", points=64))
    assert len(targets) == 64
    assert sorted({round(t.y_nm, 6) for t in targets}) == pytest.approx(np.arange(8) * 16 + 8)


def test_random_points_are_apart_and_depend_on_the_seed_alone(overview):
    one, same, other = (propose(overview, settings("random", points=50, seed=s)) for s in (1, 1, 2))
    assert one == same
    assert one != other
    places = np.array([(t.y_nm, t.x_nm) for t in one])
    distance = np.hypot(*(places[:, None] - places[None, :]).transpose(2, 0, 1)) + np.eye(50) * 1e9
    assert distance.min() >= 8.0  # sqrt(128^2 / 50) = 18


def test_points_given_by_hand_that_cannot_be_reached_are_named(overview):
    found = propose_with_remarks(overview, settings("manual"))
    assert [(t.y_nm, t.x_nm) for t in found.targets] == [(10.0, 20.0), (64.0, 64.0)]
    assert "1 of 3 given points" in found.remarks[0]


@pytest.mark.parametrize("chooser", sorted(choosers()))
@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 1000), points=st.integers(1, 60), spacing=st.floats(1.0, 40.0), margin=st.floats(0, 20))
def test_whatever_is_asked_for_targets_are_inside_apart_unique_and_new(chooser, seed, points, spacing, margin):
    rng = np.random.default_rng(seed)
    frame = scene_frame(rng, pixels=48)
    done = [tuple(p) for p in rng.uniform(0, 128, (3, 2))]
    wanted = settings(chooser, points=points, spacing_nm=spacing, margin_nm=margin, seed=seed)
    targets = propose(frame, wanted, exclude=done)
    assert len(targets) <= points
    assert len({t.target_id for t in targets}) == len(targets)
    pixel = 128 / 48
    for t in targets:
        assert margin - pixel / 2 - 1e-6 <= min(t.y_nm, t.x_nm, 128 - t.y_nm, 128 - t.x_nm)
        assert 0 <= t.score <= 1
        assert t.reason
        if chooser != "manual":
            assert min(np.hypot(t.y_nm - y, t.x_nm - x) for y, x in done) >= spacing - pixel
    if chooser not in ("manual", "grid") and len(targets) > 1:
        places = np.array([(t.y_nm, t.x_nm) for t in targets])
        distance = np.hypot(*(places[:, None] - places[None, :]).transpose(2, 0, 1)) + np.eye(len(places)) * 1e9
        assert distance.min() >= spacing * (1 - 1e-6)


BAD = {
    "constant": np.full((32, 32), 7.0),
    "one pixel": np.ones((1, 1)),
    "one line": np.arange(40.0)[None, :],
    "tiny": np.arange(9.0).reshape(3, 3),
    "some NaN": np.where(np.indices((32, 32)).sum(0) % 5 == 0, np.nan, np.indices((32, 32))[0]).astype(float),
    "integers": np.random.default_rng(0).integers(0, 3, (16, 16)),
    "two levels": np.kron([[0.0, 1.0], [1.0, 0.0]], np.ones((8, 8))),
    "huge values": np.random.default_rng(0).random((20, 20)) * 1e30,
}


@pytest.mark.parametrize("chooser", sorted(choosers()))
@pytest.mark.parametrize("name", sorted(BAD))
def test_a_poor_image_gives_few_points_and_a_remark_but_no_crash(chooser, name):
    frame = image_frame(BAD[name], pixel_nm=1.0, signal="HAADF")
    found = propose_with_remarks(frame, settings(chooser, points=2000))
    assert len(found.targets) <= BAD[name].size
    assert found.remarks or len(found.targets) == 2000
    for t in found.targets:
        if chooser != "manual":
            assert np.isfinite(BAD[name][round(t.y_nm), round(t.x_nm)])


@pytest.mark.parametrize("chooser", sorted(set(choosers()) - {"manual"}))
def test_a_huge_spacing_leaves_at_most_one_point(chooser, overview):
    assert len(propose(overview, settings(chooser, points=30, spacing_nm=1e6))) <= 1


def test_what_is_no_image_is_refused_in_a_sentence():
    spectrum = spectrum_frame(np.ones(4), dispersion_ev=1.0, offset_ev=0.0, signal="EELS")
    with pytest.raises(BadInput, match="rows and columns"):
        propose(spectrum, settings("grid"))
    with pytest.raises(BadInput, match="no finite value"):
        propose(image_frame(np.full((8, 8), np.nan), pixel_nm=1.0, signal="HAADF"), settings("grid"))


def test_a_margin_that_covers_everything_leaves_a_remark(overview):
    found = propose_with_remarks(overview, settings("random", margin_nm=500.0))
    assert not found.targets
    assert "No place is left" in found.remarks[0]


@pytest.mark.parametrize(("gain", "read"), [(1.0, 0.0), (3.0, 2.0), (0.0, 5.0)])
def test_the_noise_is_known_at_every_brightness(gain, read):
    rng = np.random.default_rng(3)
    y, x = np.indices((256, 256))
    truth = 50 + 0.5 * x + 80.0 * (np.hypot(y - 128, x - 128) < 50)
    image = (gain * rng.poisson(truth / gain) if gain else truth) + rng.normal(0, read or 1e-9, truth.shape)
    expected = np.sqrt(gain * truth + read**2)
    ratio = noise_map(image) / expected
    assert np.quantile(np.abs(ratio - 1), 0.9) <= 0.12


def test_pixels_without_a_value_are_not_targets():
    image = np.random.default_rng(0).random((20, 20))
    image[:, :10] = np.nan
    view = prepare(image_frame(image, pixel_nm=1.0, signal="HAADF"))
    assert np.isfinite(view.image).all()
    assert not view.allowed[:, :10].any()
    assert view.allowed[:, 10:].all()
