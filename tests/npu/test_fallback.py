"""What ATen's operators on npu tensors promise beside numbers: aliasing, devices, random state, refusals."""

import pytest
import torch
import torch.nn.functional as F
import torch_npu


def npu(*values: float) -> torch.Tensor:
    return torch.tensor(values, device="npu")


def test_what_overlaps_in_a_call_overlaps_for_the_kernel():
    x = torch.arange(6.0, device="npu")
    assert x.add_(x).tolist() == [0, 2, 4, 6, 8, 10]
    with pytest.raises(RuntimeError, match="refer to a single memory location"):
        x[1:].add_(x[:-1])


def test_a_result_that_is_a_view_shares_the_memory():
    x = torch.zeros(2, 3, device="npu")
    pieces = x.unbind(1)
    pieces[1].fill_(5)
    x.diagonal().fill_(7)
    assert x.tolist() == [[7, 5, 0], [0, 7, 0]]
    assert pieces[1].is_set_to(x[:, 1])


def test_a_result_keeps_the_strides_of_the_kernel():
    x = torch.randn(2, 3, 4)
    for function in (torch.neg, lambda x: x.transpose(0, 2) * 2, lambda x: torch.cumsum(x.permute(1, 0, 2), 0)):
        assert function(x.to("npu")).stride() == function(x).stride()


def test_out_returns_the_tensor_it_was_given():
    out = torch.empty(3, device="npu")
    assert torch.add(npu(1, 2, 3), 1, out=out) is out
    assert out.tolist() == [2, 3, 4]


def test_out_that_is_resized_keeps_the_storage_that_others_share():
    out = torch.empty(0, device="npu")
    storage = out.untyped_storage()
    torch.add(torch.ones(4, 4, device="npu"), 1, out=out)
    assert out.shape == (4, 4)
    again = torch.empty(0, device="npu").set_(storage, 0, (16,), (1,))
    assert out.data_ptr() == again.data_ptr()
    assert again.tolist() == [2.0] * 16


def test_out_in_a_larger_storage_leaves_the_rest_alone():
    storage = torch.zeros(6, device="npu")
    torch.mul(npu(1, 2, 3), 2, out=storage[1:4])
    assert storage.tolist() == [0, 2, 4, 6, 0, 0]


def test_a_view_that_is_conjugated_lazily():
    x = torch.tensor([1 + 2j, 3 - 1j])
    assert torch.equal((x.to("npu").conj() * 2j).cpu(), x.conj() * 2j)
    assert torch.equal(x.to("npu").conj().imag.cpu(), x.conj().imag)


def test_several_devices_keep_their_tensors_apart():
    x = npu(1.0, 2.0, 3.0)
    y = x.to("npu:1", non_blocking=True)
    assert str((y + 1).device) == "npu:1"
    assert torch.zeros_like(y).copy_(x).tolist() == x.cpu().tolist() == [1, 2, 3]


def test_a_gradient_returns_to_the_device_of_its_tensor(run):
    # Without the task queue: where a backward crosses devices, torch_npu has one device's queue destroy the event that
    # the other's is yet to wait for, and if the first is faster, host CANN refuses the wait.
    source = """
import torch
y = torch.ones(3, device="npu:1", requires_grad=True)
y.to("npu:0").mul(2).sum().backward()
assert str(y.grad.device) == "npu:1" and y.grad.tolist() == [2, 2, 2], y.grad
"""
    result = run(source, TASK_QUEUE_ENABLE="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("other", ["cpu", "npu:1"])
def test_tensors_of_two_devices_are_refused_as_on_a_card(other: str):
    x, y = torch.ones(2, 2, device="npu"), torch.ones(2, 2, device=other)
    for call in (lambda: x + y, lambda: y @ x, lambda: torch.cat([x, y]), lambda: torch.where(x > 0, x, y)):
        with pytest.raises(RuntimeError, match=f"same device.*npu:0.*{other}|same device.*{other}.*npu:0"):
            call()


def test_numbers_and_indices_may_lie_on_the_cpu():
    x = npu(1, 2, 3)
    assert (x * torch.tensor(2.0)).tolist() == [2, 4, 6]
    assert x[torch.tensor([2, 0])].tolist() == [3, 1]
    x[torch.tensor([True, False, False])] = 9
    assert x.tolist() == [9, 2, 3]


def test_the_state_of_the_generator_replays_a_call():
    state = torch.npu.get_rng_state()
    first = [torch.rand(5, device="npu"), F.dropout(torch.ones(99, device="npu")), torch.randperm(9, device="npu")]
    assert not torch.equal(torch.npu.get_rng_state(), state)
    torch.npu.set_rng_state(state)
    again = [torch.rand(5, device="npu"), F.dropout(torch.ones(99, device="npu")), torch.randperm(9, device="npu")]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.rand(5, device="npu"), first[0])


def test_a_seed_says_what_follows_and_every_device_has_its_own():
    torch.npu.manual_seed_all(3)
    a, b = torch.randn(9, device="npu:0"), torch.randn(9, device="npu:0")
    torch.npu.manual_seed_all(3)
    other = torch.randn(9, device="npu:1")
    assert torch.equal(torch.randn(9, device="npu:0"), a)
    assert torch.equal(torch.randn(9, device="npu:0"), b)
    assert torch.equal(other.cpu(), a.cpu())  # one state each, and the same seed
    assert not torch.equal(a, b)


def test_random_numbers_leave_the_cpus_generator_alone():
    state = torch.get_rng_state()
    torch.rand(5, device="npu")
    F.dropout(torch.ones(9, device="npu"))
    torch.randperm(9, device="npu")
    F.scaled_dot_product_attention(*[torch.ones(1, 1, 4, 4, device="npu")] * 3, dropout_p=0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_of_ones_own():
    generator = torch.Generator(device="npu").manual_seed(7)
    first = torch.randint(0, 1000, (9,), device="npu", generator=generator)
    assert torch.equal(torch.randint(0, 1000, (9,), device="npu", generator=generator.manual_seed(7)), first)
    with pytest.raises(RuntimeError, match=r"Expected a '.*' device type for generator but found 'cpu'"):
        npu(1).normal_(generator=torch.Generator())


def test_dropout_keeps_what_it_says_and_scales_it():
    x = torch.ones(20_000, device="npu", requires_grad=True)
    y = F.dropout(x, 0.3)
    y.sum().backward()
    kept = (y > 0).double().mean().item()
    assert abs(kept - 0.7) < 5 * (0.3 * 0.7 / x.numel()) ** 0.5  # five standard deviations
    assert torch.equal(x.grad, y)
    torch.testing.assert_close(y.max().item(), 1 / 0.7)
    assert F.dropout(x, 1.0).sum() == 0
    assert torch.equal(F.dropout(x, 0.3, training=False), x)


def test_checkpointing_recomputes_the_same_dropout():
    x = torch.ones(64, 64, device="npu", requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: F.dropout(x * 2, 0.5).sigmoid(), x, use_reentrant=False)
    y.sum().backward()
    kept = y > 0.5
    slope = torch.where(kept, 4 * y * (1 - y), torch.zeros_like(y))
    torch.testing.assert_close(x.grad, slope)


@pytest.mark.parametrize("product", ["mm", "bmm", "addmm", "baddbmm"])
def test_products_with_a_type_for_the_result(product: str):
    batch = (2,) if "b" in product else ()
    operands = [torch.randn(*batch, *sizes).bfloat16() for sizes in ((3, 4), (4, 5))]
    if "add" in product:
        operands.insert(0, torch.randn(*batch, 3, 5).bfloat16())
    function = getattr(torch, product)
    result = function(*(operand.npu() for operand in operands), out_dtype=torch.float32)
    assert torch.equal(result.cpu(), function(*(operand.float() for operand in operands)))


def test_loss_scaling_finds_what_is_not_finite():
    scaler = torch.amp.GradScaler("npu", init_scale=4.0)
    weight = torch.nn.Parameter(npu(1.0, 2.0))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for gradient, expected in ((npu(1.0, 2.0), [0.0, 0.0]), (npu(1.0, float("inf")), [0.0, 0.0])):
        optimizer.zero_grad()
        scaler.scale((weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == expected
    assert scaler.get_scale() == 2.0


def test_what_the_cpu_has_no_kernel_for_is_refused_by_name():
    x = torch.ones(2, 8, device="npu")
    with pytest.raises(NotImplementedError, match=r"aten::_thnn_fused_lstm_cell: host CANN .* has none"):
        torch.nn.LSTM(8, 8).npu()(x)
    with pytest.raises(RuntimeError, match="aclnnGroupedMatmul"):
        torch_npu.npu_grouped_matmul([x], [x.T[None]], group_list=[2], group_type=0, split_item=3)


def test_sparse_tensors_are_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"aten::_to_sparse: host CANN has strided tensors only"):
        torch.eye(3, device="npu").to_sparse()


def test_an_error_of_a_kernel_is_the_error_of_the_call():
    x = npu(1, 2)
    with pytest.raises(IndexError, match="out of range"):
        x.gather(1, torch.zeros(2, dtype=torch.long, device="npu"))
    with pytest.raises(RuntimeError, match="out of bounds"):
        x.gather(0, torch.full((2,), 5, device="npu"))
    assert (x + 1).tolist() == [2, 3]
