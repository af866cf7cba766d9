"""The proof that a network is the one of its paper: a second implementation with the same weights answers the same.

`make parity` (or `python -m trimask.parity --only fcn`) runs every row, prints a table, writes runs/parity.json and exits with 1
if one row fails. tests/parity runs the same rows. How an architecture gets its rows:

1. Its file in networks/ says what the tensors are called elsewhere: `RENAMES = {"mmseg": table}`, from our names to theirs (see
   `trimask.weights`). Names of backbones are in `layers/backbone_names.py`. Where names are not enough (transposed, joined or
   permuted tensors), `CONVERSIONS = {"mmseg": function}` turns their state_dict into one that only needs renaming.
2. parity/<architecture>.py lists rows; a new file is found by itself. It must be importable without any reference installed:

       from trimask.networks.fcn import FCN
       from trimask.parity.references import mmseg
       from trimask.parity.row import Published, Row

       ROWS = [
           Row(
               FCN, {"num_classes": 150, "backbone": "resnet50c"},     # our network; `pretrained=False` is added
               variant="R50-D8, ADE20K",
               source="mmseg",                                         # which of its RENAMES
               reference=mmseg("fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512"),    # or torchvision, smp, transformers, Reference(...)
               published=Published("mmseg/fcn_r50-d8_4xb4-160k_ade20k-512x512", total=49.6, inference=47.2),
           ),
       ]

A row builds the reference with random weights, changes everything that its initialization left constant (running statistics,
scales, biases, position embeddings), hands its weights to our network through `convert.load_released` (a name left over on
either side is an error), and then compares, at every size, in fp32 and fp64:

- the logits in evaluation mode; with auxiliary heads, both in training mode with dropout off and fixed running statistics;
- the number of parameters: ours, the reference's, the published one;
- and, to show that the comparison can fail, again after one random tensor of the reference was changed.

What else a row can say (see `Row`): `sizes`; `slow` for what takes more than some seconds; `inert`, patterns of the
reference's tensors that cannot change any answer (the bias of an attention's keys, which softmax cancels); `exact=None` where the
reference computes something in fp32 whatever it is given. Variants that differ from a proved one only in width or depth need no
row: a `Count` in `COUNTS` checks their published number of parameters without memory.
"""
