"""What a model must be to have its sequences shared."""

from types import SimpleNamespace

import pytest
import torch

from ascendspeed.integrations.deepspeed import ulysses


class Group:
    """Of two ranks, this one the second; nothing is sent."""

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 1


@pytest.fixture
def gpt(monkeypatch) -> torch.nn.Module:
    monkeypatch.setattr(ulysses.dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(ulysses.dist, "get_rank", lambda group: 1)
    model = torch.nn.Module()
    model.config = SimpleNamespace(
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, context_parallel_size=1
    )
    model.position_embedding_type = "none"
    return model


@pytest.mark.parametrize(
    "field", ["tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"]
)
def test_no_other_parallelism(gpt, field):
    setattr(gpt.config, field, 2)
    with pytest.raises(NotImplementedError, match=f"^{field}=2 with Ulysses is not supported; it must be 1$"):
        ulysses.distribute_sequence(gpt, Group())


def test_positions_of_another_kind_are_refused(gpt):
    gpt.position_embedding_type = "yarn"
    with pytest.raises(NotImplementedError, match="position_embedding_type='yarn' with Ulysses"):
        ulysses.distribute_sequence(gpt, Group())


def test_another_attention_is_refused(gpt):
    class Other(ulysses.Attention):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.core_attention, self.layer_number = torch.nn.Identity(), 7

        def get_query_key_value_tensors(self) -> None: ...

    gpt.layer = Other()
    with pytest.raises(ValueError, match="layer 7 attends with Identity, not with the operator"):
        ulysses.distribute_sequence(gpt, Group())


def test_a_group_of_one_changes_nothing(gpt, monkeypatch):
    monkeypatch.setattr(ulysses.dist, "get_world_size", lambda group: 1)
    gpt.config.tensor_model_parallel_size = 2
    ulysses.distribute_sequence(gpt, Group())
