"""npu_fusion_attention and its relatives: torch_npu's signatures and returns over our operator."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ascendspeed import ops
from ascendspeed.ops import compressed_atten_mask, reference
from tests.support import operator
from tests.support.bounds import bounds, within
from tests.support.cases import Case, cases
from tests.support.operator import dropout_gen_mask, flash_attention_score, has_dpse, npu_dropout_gen_mask, rng_state

# torch_npu 2.14.0, npu_native_functions_by_codegen.yaml and npu_native_functions.yaml.
SCHEMAS = """
npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, Tensor? pse=None, \
Tensor? padding_mask=None, Tensor? atten_mask=None, float scale=1., float keep_prob=1., int pre_tockens=2147483647, \
int next_tockens=2147483647, int inner_precise=0, int[]? prefix=None, int[]? actual_seq_qlen=None, \
int[]? actual_seq_kvlen=None, int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False, \
str softmax_layout="", Tensor? sink=None, Tensor? dropout_mask=None, int seed=0, int offset=0) \
-> (Tensor, Tensor, Tensor, Tensor, int, int, int)
npu_fusion_attention_grad(Tensor query, Tensor key, Tensor value, Tensor dy, int head_num, str input_layout, *, \
Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, Tensor? softmax_max=None, \
Tensor? softmax_sum=None, Tensor? softmax_in=None, Tensor? attention_in=None, float scale_value=1., \
float keep_prob=1., int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0, int seed=0, \
int offset=0, int numels=0, int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, \
int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False, str softmax_layout="", Tensor? sink=None) \
-> (Tensor, Tensor, Tensor, Tensor, Tensor)
npu_fusion_attention_v2(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, *, \
Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, Tensor? query_rope=None, \
Tensor? key_rope=None, float scale=1., float keep_prob=1., int pre_tokens=2147483647, int next_tokens=2147483647, \
int inner_precise=0, int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, \
int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False, int pse_type=1, int[]? q_start_idx=None, \
int[]? kv_start_idx=None, str softmax_layout="", Tensor? sink=None, Tensor? dropout_mask=None, int seed=0, \
int offset=0) -> (Tensor, Tensor, Tensor, Tensor, int, int, int)
npu_fusion_attention_grad_v2(Tensor query, Tensor key, Tensor value, Tensor dy, int head_num, str input_layout, *, \
Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, Tensor? softmax_max=None, \
Tensor? softmax_sum=None, Tensor? softmax_in=None, Tensor? attention_in=None, Tensor? query_rope=None, \
Tensor? key_rope=None, float scale_value=1., float keep_prob=1., int pre_tokens=2147483647, \
int next_tokens=2147483647, int inner_precise=0, int seed=0, int offset=0, int numels=0, int[]? prefix=None, \
int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int sparse_mode=0, bool gen_mask_parallel=True, \
bool sync=False, int pse_type=1, int[]? q_start_idx=None, int[]? kv_start_idx=None, str softmax_layout="", \
Tensor? sink=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)
_npu_dropout_gen_mask(Tensor self, int[] size, float p, int seed, int offset, *, bool? parallel=True, \
bool? sync=None) -> Tensor
npu_ring_attention_update(Tensor prev_attn_out, Tensor prev_softmax_max, Tensor prev_softmax_sum, \
Tensor cur_attn_out, Tensor cur_softmax_max, Tensor cur_softmax_sum, *, Tensor? actual_seq_qlen=None, \
str input_layout="SBH", str input_softmax_layout="") -> (Tensor, Tensor, Tensor)
"""


@pytest.mark.parametrize("text", SCHEMAS.strip().splitlines(), ids=lambda text: text.partition("(")[0])
def test_signatures_are_those_of_torch_npu(text):
    schema = torch._C.parse_schema(text)
    assert schema.name in ops.__all__
    parameters = inspect.signature(getattr(ops, schema.name)).parameters.values()
    kinds = {True: inspect.Parameter.KEYWORD_ONLY, False: inspect.Parameter.POSITIONAL_OR_KEYWORD}
    ours = [(p.name, p.kind, p.default) for p in parameters]
    empty = inspect.Parameter.empty
    theirs = [
        (a.name, kinds[a.kwarg_only], a.default_value if a.has_default_value() else empty) for a in schema.arguments
    ]
    assert ours == theirs


def attributes_of(case: Case, version: int) -> dict:
    """The case's attributes by the names of the forward of `version`."""
    attributes = case.attributes()
    attributes["dropout_mask"] = attributes.pop("drop_mask")
    if version == 2:
        for name in ("pre", "next"):
            attributes[f"{name}_tokens"] = attributes.pop(f"{name}_tockens")
    else:
        for name in ("pse_type", "q_start_idx", "kv_start_idx"):
            del attributes[name]
    return attributes


def forward(version: int):
    return operator.npu_fusion_attention if version == 1 else operator.npu_fusion_attention_v2


def backward(version: int):
    return operator.npu_fusion_attention_grad if version == 1 else operator.npu_fusion_attention_grad_v2


def differentiable(case: Case, attributes: dict) -> dict:
    """The tensors among the attributes that have a gradient, set to ask for it."""
    named = {name: attributes[name] for name in ("pse", "sink")}
    if not has_dpse(case.pse, case.pse_type):
        del named["pse"]
    return {name: tensor.requires_grad_() for name, tensor in named.items() if tensor is not None}


def check(case: Case, version: int) -> None:
    """Outputs bitwise those of flash_attention_score; gradients by autograd and by *_grad bitwise its gradients."""
    *inputs, dy = case.tensors()
    inputs = [t.requires_grad_() for t in inputs]
    attributes = attributes_of(case, version)
    others = differentiable(case, attributes)
    wanted = [*inputs, *others.values()]
    output = forward(version)(*inputs, case.heads, case.layout, **attributes)
    expected = flash_attention_score(*inputs, case.heads, case.layout, **{**case.attributes(), **others})
    assert type(output) is tuple
    assert len(output) == 7
    for actual, tensor in zip(output, expected, strict=False):
        assert torch.equal(actual, tensor)
        assert actual.dtype == tensor.dtype
    dropped = case.keep_prob < 1
    seed, offset = (case.seed + 1, case.seed // 3) if dropped else (0, 0)
    assert output[4:] == (seed, offset, case.batch * case.heads * case.q_len * case.kv_len)
    assert all(type(number) is int for number in output[4:])

    gradients = torch.autograd.grad(expected.attention_out, wanted, dy)
    for actual, gradient in zip(torch.autograd.grad(output[0], wanted, dy), gradients, strict=True):
        assert torch.equal(actual, gradient)
    if case.dropout == "mask":
        return  # *_grad has no argument for it
    if case.pse is not None and case.pse_type in (0, 1) and "pse" not in others:
        return  # *_grad gives dpse wherever there is a pse
    del attributes["dropout_mask"]
    attributes |= {"scale_value": attributes.pop("scale"), "seed": output[4], "offset": output[5], "numels": output[6]}
    with torch.no_grad():
        results = backward(version)(
            *inputs, dy, case.heads, case.layout, softmax_max=output[1], softmax_sum=output[2], attention_in=output[0],
            **attributes,
        )  # fmt: skip
    names = ["dpse", "dsink"] if version == 1 else ["dpse", "dq_rope", "dk_rope", "dsink"]
    by_name = dict(zip(["dq", "dk", "dv", *names], results, strict=True))
    assert (by_name["dpse"] is None) == ("pse" not in others)
    assert (by_name["dsink"].numel() == 0) == ("sink" not in others)
    for name, gradient in zip(["dq", "dk", "dv", *(f"d{name}" for name in others)], gradients, strict=True):
        assert torch.equal(by_name[name], gradient), name
    if version == 2:
        assert by_name["dq_rope"].numel() == by_name["dk_rope"].numel() == 0


@given(cases().filter(lambda case: case.pse_type == 1))
def test_first_version_is_the_operator(case):
    check(case, 1)


@given(cases())
def test_second_version_is_the_operator(case):
    check(case, 2)


@pytest.mark.parametrize("version", [1, 2])
def test_every_attribute_at_once(version):
    """None of them is lost or exchanged on the way, whatever the strategies above draw."""
    check(
        Case(
            2, 4, 2, 75, 80, 16, 8, dtype=torch.bfloat16, layout="SBH", pse="BNSS", sink=True, dropout="seed",
            keep_prob=0.5, masked=True, sparse_mode=4, pre_tockens=30, next_tockens=2, seed=12,
        ),
        version,
    )  # fmt: skip


def small(requires_grad=False):
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(2, 3, length, 8, generator=generator, requires_grad=requires_grad) for length in (40, 50, 50)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_drawn_seed_comes_from_torchs_generator_and_is_returned(version):
    inputs = small()

    def attend(**arguments):
        return forward(version)(*inputs, 3, "BNSD", keep_prob=0.7, **arguments)

    torch.manual_seed(3)
    first, second = attend(), attend()
    torch.manual_seed(3)
    again = attend()
    assert first[4] != second[4]
    assert first[4:] == again[4:] == (first[4], 0, 2 * 3 * 40 * 50)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])
    assert torch.equal(attend(seed=first[4], offset=first[5])[0], first[0])
    mask = npu_dropout_gen_mask(inputs[0], [first[6]], float(1) - 0.7, first[4], first[5])
    external = attend(dropout_mask=mask, seed=first[4], offset=first[5])
    assert torch.equal(external[0], first[0])
    assert external[4:] == first[4:]


@pytest.mark.parametrize("version", [1, 2])
def test_an_offset_alone_names_a_mask(version):
    output = forward(version)(*small(), 3, "BNSD", keep_prob=0.7, offset=5)
    assert output[4:6] == (0, 5)
    assert torch.equal(output[0], flash_attention_score(*small(), 3, "BNSD", keep_prob=0.7, offset=5)[0])


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_is_drawn_where_nothing_is_dropped(version):
    state = rng_state()
    assert forward(version)(*small(), 3, "BNSD", seed=7, offset=8)[4:] == (0, 0, 2 * 3 * 40 * 50)
    every = torch.full((1500,), 255, dtype=torch.uint8)
    assert forward(version)(*small(), 3, "BNSD", keep_prob=0.5, dropout_mask=every)[4:6] == (0, 0)
    assert torch.equal(rng_state(), state)


@pytest.mark.parametrize("version", [1, 2])
def test_gradient_of_an_unnamed_mask_is_refused(version):
    query, key, value = small()
    with pytest.raises(
        NotImplementedError, match=r"keep_prob=0\.9, seed=0, offset=0: npu_fusion_attention_grad\w* has"
    ):
        backward(version)(query, key, value, query, 3, "BNSD", keep_prob=0.9)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("numels", [11999, 12001])
def test_numels_of_another_forward_is_refused(version, numels):
    query, key, value = small()
    output = forward(version)(query, key, value, 3, "BNSD", keep_prob=0.5, seed=4)
    stats = dict(zip(("attention_in", "softmax_max", "softmax_sum"), output[:3], strict=True))
    with pytest.raises(ValueError, match=rf"numels={numels} is not 12000.*161002"):
        backward(version)(query, key, value, query, 3, "BNSD", keep_prob=0.5, seed=4, numels=numels, **stats)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep_prob": 0.0}, "keep_prob=0.*161002"),
        ({"input_layout": "HBS"}, "input_layout='?HBS'?.*161002"),
        ({"sparse_mode": 9, "atten_mask": torch.zeros(40, 50, dtype=torch.bool)}, "sparse_mode=9.*161002"),
        ({"softmax_layout": "NTD"}, "softmax_layout='?NTD'?.*161002"),
        ({"padding_mask": torch.zeros(1)}, "padding_mask"),
    ],
)
def test_the_operators_rules_speak(version, arguments, message):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        forward(version)(*small(), **{"head_num": 3, "input_layout": "BNSD", **arguments})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("missing", ["softmax_max", "softmax_sum", "attention_in"])
def test_backward_needs_what_the_forward_returned(version, missing):
    query, key, value = small()
    output = forward(version)(query, key, value, 3, "BNSD")
    stats = dict(zip(("attention_in", "softmax_max", "softmax_sum"), output[:3], strict=True))
    with pytest.raises(ValueError, match=rf"{missing}.*161001"):
        backward(version)(query, key, value, query, 3, "BNSD", **{**stats, missing: None})


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(1, 2**62), st.integers(0, 2**40))
def test_gen_mask_takes_the_probability_of_dropping(numel, p, seed, offset):
    mask = npu_dropout_gen_mask(torch.empty(0), [numel, 1], p, seed, offset, parallel=False, sync=True)
    assert mask.shape == (math.ceil(numel / 128) * 16,)
    if 1 - p > 0:
        assert torch.equal(mask, dropout_gen_mask(torch.empty(0), numel, 1 - p, seed, offset))
    else:
        assert not mask.any()


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_gen_mask_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=rf"p={p} is not in \[0, 1\] \[161002\]"):
        npu_dropout_gen_mask(torch.empty(0), [8], p, 1, 0)


@pytest.mark.parametrize(
    ("mode", "pre", "following"), [(0, 128, 128), (1, 65536, 65536), (2, 65536, 0), (3, 65536, 0), (4, 128, 128)]
)
def test_the_documented_example_of_torch_npu(mode, pre, following):
    """Its five sparse modes and its way to make masks; the truth is the float64 reference, the tolerance derived."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 8, 256, 256, generator=generator).half() for _ in range(3))
    atten_mask = None
    full = torch.ones(1, 8, 256, 256)
    if mode == 0:
        atten_mask = (full.triu(following + 1) + full.tril(-pre - 1)).to(torch.float16).bool()
    elif mode in (2, 3, 4):
        atten_mask = torch.ones(2048, 2048).triu(1).to(torch.float16).bool()
    output = operator.npu_fusion_attention(
        query, key, value, head_num=8, input_layout="BNSD", scale=0.08838, sparse_mode=mode,
        atten_mask=atten_mask, pre_tockens=pre, next_tockens=following,
    )  # fmt: skip
    excluded = {0: full.triu(following + 1) + full.tril(-pre - 1), 1: full * 0}
    mask = excluded.get(mode, full.triu(1) if mode in (2, 3) else excluded[0]).bool()
    expected = reference.attention(query, key, value, scale=0.08838, mask=mask).attention_out
    bound = bounds(query, key, value, torch.zeros_like(query), scale=0.08838, mask=mask).attention_out
    within("attention_out", output[0], expected, bound)


def test_the_documented_examples_of_pse_and_sink():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, 16, 64, generator=generator).half() for _ in range(3))
    pse = (torch.randn(1, 4, 16, 16, generator=generator) * 0.01).half()
    sink = torch.linspace(-0.2, 0.2, steps=4)
    nothing = torch.zeros(1, 4, 16, 16, dtype=torch.bool)
    for extra, problem in (({"pse": pse}, {"shift": pse.double()}), ({"sink": sink}, {"sink": sink})):
        problem |= {"scale": 0.125, "mask": nothing}
        out = operator.npu_fusion_attention(query, key, value, head_num=4, input_layout="BNSD", scale=0.125, **extra)[0]
        bound = bounds(query, key, value, torch.zeros_like(query), **problem).attention_out
        within("attention_out", out, reference.attention(query, key, value, **problem).attention_out, bound)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("q_ends", "kv_ends"), [([3, 8], [3, 8]), ([2, 2, 7, 0], [4, 6, 6, 0])])
def test_packed_input_counts_its_probabilities_and_has_the_same_gradients(version, q_ends, kv_ends):
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(max(ends), 2, 64, generator=generator) for ends in (q_ends, kv_ends, kv_ends)]
    inputs = [t.half().requires_grad_() for t in inputs]
    lists = {"actual_seq_qlen": q_ends, "actual_seq_kvlen": kv_ends, "softmax_layout": "TND"}
    output = forward(version)(*inputs, 2, "TND", scale=0.088, keep_prob=0.9, seed=6, **lists)
    lengths = [[max(0, b - a) for a, b in zip([0, *e], e, strict=False)] for e in (q_ends, kv_ends)]
    assert output[4:] == (6, 0, 2 * sum(a * b for a, b in zip(*lengths, strict=True)))
    assert output[1].shape == (max(q_ends), 2, 8)
    dy = torch.randn(output[0].shape, generator=generator).half()
    gradients = torch.autograd.grad(output[0], inputs, dy)
    with torch.no_grad():
        results = backward(version)(
            *inputs, dy, 2, "TND", softmax_max=output[1], softmax_sum=output[2], attention_in=output[0],
            scale_value=0.088, keep_prob=0.9, seed=output[4], offset=output[5], numels=output[6], **lists,
        )  # fmt: skip
    for actual, gradient in zip(results[:3], gradients, strict=True):
        assert torch.equal(actual, gradient)


def test_rope_inputs_add_to_the_scores_and_have_gradients():
    """As query and key with the rope parts appended to each head would, whose own gradients are the other truth."""
    generator = torch.Generator().manual_seed(2)
    ends = [3, 8]
    query, key, value = (torch.randn(8, heads, 64, generator=generator).bfloat16() for heads in (4, 2, 2))
    query_rope, key_rope = (torch.randn(8, heads, 32, generator=generator).bfloat16() for heads in (4, 2))
    lists = {"actual_seq_qlen": ends, "actual_seq_kvlen": ends, "sparse_mode": 3, "scale": 0.1}
    lists["atten_mask"] = compressed_atten_mask(3)
    inputs = [t.requires_grad_() for t in (query, key, value, query_rope, key_rope)]
    output = operator.npu_fusion_attention_v2(*inputs[:3], 4, "TND", query_rope=query_rope, key_rope=key_rope, **lists)
    joined = [torch.cat([query, query_rope], -1), torch.cat([key, key_rope], -1), value]
    expected = operator.npu_fusion_attention_v2(*joined, 4, "TND", **lists)
    for actual, tensor in zip(output[:3], expected[:3], strict=True):
        assert torch.equal(actual, tensor)
    dy = torch.randn(output[0].shape, generator=generator).bfloat16()
    gradients = torch.autograd.grad(output[0], inputs, dy)
    for actual, gradient in zip(gradients, torch.autograd.grad(expected[0], inputs, dy), strict=True):
        assert torch.equal(actual, gradient)
    lists["scale_value"] = lists.pop("scale")
    with torch.no_grad():
        results = operator.npu_fusion_attention_grad_v2(
            *inputs[:3], dy, 4, "TND", query_rope=query_rope, key_rope=key_rope, softmax_max=output[1],
            softmax_sum=output[2], attention_in=output[0], **lists,
        )  # fmt: skip
    dq, dk, dv, dpse, dq_rope, dk_rope, dsink = results
    assert dpse is None
    assert dsink.numel() == 0
    for actual, gradient in zip((dq, dk, dv, dq_rope, dk_rope), gradients, strict=True):
        assert torch.equal(actual, gradient)
