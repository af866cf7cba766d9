"""Deformable attention: both ways to its sums, beside transformers' in plain torch, and where it looks at first."""

import pytest
import torch

from trimask.layers.deformable_attention import DeformableAttention, looked_up, places_of_cells, sampled

SIZES = [(3, 2), (5, 4), (9, 7)]
NUM_CELLS = sum(height * width for height, width in SIZES)
BATCH, HEADS, POINTS, CHANNELS = 2, 4, 3, 8


def parts(dtype=torch.float64, spread=3.0):
    """Values, and points and weights of each map; many of the points lie beyond the borders."""
    torch.manual_seed(0)
    values = torch.randn(BATCH, NUM_CELLS, HEADS, CHANNELS, dtype=dtype)
    points = [
        place[:, None, None] + spread * torch.randn(BATCH, NUM_CELLS, HEADS, POINTS, 2, dtype=dtype)
        for place in places_of_cells(SIZES, like=values)
    ]
    weights = [torch.rand(BATCH, NUM_CELLS, HEADS, POINTS, dtype=dtype) for _ in SIZES]
    return [x.requires_grad_() for x in (values, *points, *weights)]


def answer(way, leaves):
    values, *others = leaves
    return way(values, others[:3], others[3:], SIZES)


def test_both_ways_have_the_same_sums_and_gradients():
    leaves = parts()
    found, expected = answer(looked_up, leaves), answer(sampled, leaves)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad(x, leaves, weight) for x in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.ne(0).any()
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_right():
    values, *others = (x[:1].detach().requires_grad_() for x in parts())
    few = [x[:, :3].detach().requires_grad_() for x in others]

    def function(values, *few):
        return looked_up(values, few[:3], few[3:], SIZES)

    assert torch.autograd.gradcheck(function, (values, *few), fast_mode=True)


def test_what_lies_beyond_the_border_is_nothing():
    values, *_ = parts()
    places = [torch.tensor([[-1.0, 0.0], [-50.0, 1.0], [0.0, 1e9], [2.0, 0.0], [-0.5, 0.0]])] * 3
    points = [place.double()[None, :, None, None].expand(BATCH, -1, HEADS, POINTS, 2) for place in places]
    weights = [
        torch.ones(BATCH, 5, HEADS, POINTS, dtype=torch.float64),
        *[torch.zeros(BATCH, 5, HEADS, POINTS).double()] * 2,
    ]
    found = looked_up(values, points, weights, SIZES).unflatten(2, (HEADS, CHANNELS))
    assert found[:, :4].eq(0).all()  # the first map has two columns and three rows
    torch.testing.assert_close(found[:, 4], POINTS * values[:, 0] / 2)


def test_a_value_is_found_in_its_own_cell():
    values, *_ = parts()
    places = places_of_cells(SIZES, like=values)
    own = torch.arange(NUM_CELLS).split([height * width for height, width in SIZES])
    for level, cells in enumerate(own):
        points = [place[cells][None, :, None, None].expand(BATCH, -1, HEADS, 1, 2) for place in places]
        weights = [torch.full((BATCH, len(cells), HEADS, 1), float(level == i)).double() for i in range(3)]
        for way in (looked_up, sampled):
            found = way(values, points, weights, SIZES).unflatten(2, (HEADS, CHANNELS))
            torch.testing.assert_close(found, values[:, cells])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_that_of_transformers(dtype):
    pytest.importorskip("transformers")
    from transformers.models.mask2former import modeling_mask2former as library

    torch.manual_seed(0)
    channels = HEADS * CHANNELS
    ours = DeformableAttention(channels, num_heads=HEADS, num_points=POINTS).to(dtype)
    theirs = library.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(channels, HEADS, 3, POINTS).to(dtype)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.load_state_dict(ours.state_dict())
    x, positions = torch.randn(2, BATCH, NUM_CELLS, channels, dtype=dtype)
    found = ours(x + positions, x, places_of_cells(SIZES, like=x), SIZES)
    ratios = torch.ones(BATCH, 3, 2, dtype=dtype)
    expected, _ = theirs(
        x,
        encoder_hidden_states=x,
        position_embeddings=positions,
        reference_points=library.Mask2FormerPixelDecoderEncoderOnly.get_reference_points(SIZES, ratios, "cpu"),
        spatial_shapes_list=SIZES,
    )
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(found, expected, **tolerance)


def test_at_first_heads_look_in_directions_of_their_own():
    attention = DeformableAttention(64, num_heads=8, num_levels=3, num_points=4)
    offsets = attention.sampling_offsets(torch.randn(1, 64)).view(8, 3, 4, 2)
    assert torch.equal(offsets[:, 0], offsets[:, 2])
    torch.testing.assert_close(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    torch.testing.assert_close(offsets[1, 0, 0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(offsets[2, 0, 1], torch.tensor([0.0, 2.0]), rtol=0, atol=1e-6)
    assert attention.attention_weights(torch.randn(1, 64)).eq(0).all()


def test_where_to_look_is_exact_within_autocast():
    torch.manual_seed(0)
    attention = DeformableAttention(64)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.3)
    x = torch.randn(1, NUM_CELLS, 64)
    besides = places_of_cells(SIZES, like=x), SIZES
    expected = attention(x, x, *besides)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(x, x, *besides)
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.01  # of values and answers alone; points in bf16 would be several per cent off


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="36 channels cannot be divided among 8 heads"):
        DeformableAttention(36)
