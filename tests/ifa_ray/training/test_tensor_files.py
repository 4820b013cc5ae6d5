"""Our writer of safetensors against the library's, to the byte, and its reader on our bytes."""

import pytest
import safetensors.torch
import torch
from tiny_learners import make_learner, make_samples

from ifa_ray.errors import CheckpointError
from ifa_ray.training.tensor_files import naive_chunks, tensor_chunks

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32,
         torch.int16, torch.int8, torch.uint8, torch.bool)  # fmt: skip


def joined(chunks):
    return b"".join(chunks)


@pytest.mark.parametrize("name", ["ifa", "twin", "ifa_plus"])
def test_a_learners_arrays_are_the_librarys_bytes(name):
    learner = make_learner(name)
    learner.train(make_samples(8))
    for tensors in (learner.arrays().model, learner.arrays().optimizer):
        assert joined(tensor_chunks(tensors)) == joined(naive_chunks(tensors))


def test_all_types_shapes_and_names_are_the_librarys_bytes():
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for shape in ((), (1,), (3,), (0,), (2, 0, 3), (5, 7)):
        for dtype in TYPES:
            values = torch.randint(0, 100, shape, generator=generator).to(dtype)
            tensors[f'é "{dtype}" {shape}/{len(tensors) % 3}'] = values
    ours = joined(tensor_chunks(tensors))
    assert ours == joined(naive_chunks(tensors))
    read = safetensors.torch.load(ours)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_no_tensors_and_tensors_in_pieces_are_the_librarys_bytes():
    assert joined(tensor_chunks({})) == joined(naive_chunks({}))
    whole = torch.arange(24.0).reshape(4, 6)
    pieces = {"columns": whole[:, 1:3], "turned": whole.t()}
    own = {name: tensor.contiguous() for name, tensor in pieces.items()}
    assert joined(tensor_chunks(pieces)) == joined(naive_chunks(own))


def test_a_contiguous_tensor_is_not_copied():
    tensor = torch.zeros(4)
    chunks = tensor_chunks({"x": tensor})
    tensor[0] = 1.0
    assert safetensors.torch.load(joined(chunks))["x"][0] == 1.0


def test_a_type_that_no_checkpoint_holds_is_refused():
    with pytest.raises(CheckpointError, match=r"x: dtype torch\.complex64"):
        tensor_chunks({"x": torch.zeros(2, dtype=torch.complex64)})
