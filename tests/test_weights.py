"""Tensors by name: renamed, joined, split."""

import pytest
import torch

from trimask.weights import join, split, translate

QKV = [".q.", ".k.", ".v."]


def tensors(**named):
    return {name.replace("_", "."): torch.tensor(values) for name, values in named.items()}


def test_joined_parts_follow_each_other_whatever_their_order():
    weights = tensors(a_v_weight=[3.0], a_q_weight=[1.0], b_weight=[0.0], a_k_weight=[2.0])
    joined = join(weights, QKV, ".qkv.")
    assert {name: value.tolist() for name, value in joined.items()} == {"a.qkv.weight": [1, 2, 3], "b.weight": [0]}


def test_split_is_the_inverse_of_join():
    weights = tensors(a_q_weight=[[1.0, 2.0]], a_k_weight=[[3.0, 4.0]], a_v_weight=[[5.0, 6.0]], other=[7.0])
    again = split(join(weights, QKV, ".qkv."), ".qkv.", QKV)
    assert {name: value.tolist() for name, value in again.items()} == {n: v.tolist() for n, v in weights.items()}


def test_a_missing_part_is_named():
    with pytest.raises(ValueError, match=r"The weights have a\.k\.weight but not a\.q\.weight, a\.v\.weight\."):
        join(tensors(a_k_weight=[1.0]), QKV, ".qkv.")


def test_counters_of_batch_norms_may_be_missing_but_not_left_over():
    names, table = ["norm.weight", "norm.num_batches_tracked"], [("^norm", "bn")]
    found = translate(tensors(bn_weight=[1.0]), names, table)
    assert list(found) == ["norm.weight"]
    source = tensors(bn_weight=[1.0]) | {"bn.num_batches_tracked": torch.tensor(3)}
    assert set(translate(source, names, table)) == set(names)
    with pytest.raises(ValueError, match=r"left over bn\.num_batches_tracked"):
        translate(source, names[:1], table)
