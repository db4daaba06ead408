"""What language hosts take beside what images do: scores of plain attention, and a piece of logits."""

import pytest
import test_score
import torch
from test_memory import begun, grown, measuring, of_host, peak, setup_of, training

from esper_env.engine import memory, score
from esper_env.engine.footprint import footprint
from esper_env.engine.precision import attention

CUDA = torch.device("cuda")


@pytest.mark.parametrize("context", [64, 128])
def test_with_deterministic_attention_on_cuda_scores_are_counted(context, tmp_path):
    """The same kind of attention on the CPU stands in for CUDA's."""
    setup = of_host("gpt_micro", None, **{"task.context": context, "engine.counterfactual_size": 32})
    counted, elsewhere = footprint(setup, CUDA), footprint(setup)
    with attention(True):
        for build, expected in ((begun, counted.host_row), (grown, counted.trained)):
            step = training(setup, build(setup, 3))
            step()
            assert 0.9 * expected < peak(step, tmp_path / "trace.json") / 3 < 1.1 * expected
        work = measuring(setup)
        work()
        assert peak(work, tmp_path / "trace.json") / 3 == pytest.approx(counted.measured, rel=1 / 7)
    assert counted.row > 1.1 * elsewhere.row
    free_to_choose = of_host("gpt_micro", None, **{"task.context": context, "engine.deterministic": False})
    assert footprint(free_to_choose, CUDA).row == elsewhere.row


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_take_what_was_counted_once_for_all(rows, training, monkeypatch, tmp_path):
    """Beside them there are the gradients, which are counted with values and weights."""
    monkeypatch.setitem(score.LOGITS, "cpu", 2**18)
    monkeypatch.setattr(test_score, "ROWS", rows)
    vocabulary, tokens = 1000, 256
    fused, _, tensors = test_score.heads(vocabulary, tokens, torch.float32)
    x, y = test_score.batch(vocabulary, tokens, torch.float32)
    do = fused.train if training else torch.no_grad()(fused.measure)
    beside = sum(each.nbytes for each in (x, *tensors.values())) + 4 * x.nbytes
    held = peak(lambda: do(test_score.RUN, tensors, x, y), tmp_path / "trace.json", 30)
    shared = torch.float32.itemsize * score.most_at_once("cpu", x.shape[1] * tokens, vocabulary)
    assert shared / 2 <= held < shared + beside
    assert shared == 2 * 4 * 262_000


def test_logits_of_texts_are_counted_beside_environments_and_those_of_images_are_not(monkeypatch):
    setup = setup_of("stories")
    assert footprint(setup_of()).shared == 0
    vocabulary = setup.loaded_task.num_classes
    assert footprint(setup, CUDA).shared == 2 * 4 * 32 * 64 * vocabulary
    counted = footprint(setup)
    assert counted.shared == 2 * 4 * 32 * 64 * vocabulary
    room = 2 * (counted.host + counted.modules) + 2 * counted.row + counted.shared
    monkeypatch.setattr(memory, "free", lambda device: room)
    memory.refuse_too_many(2, setup)
    monkeypatch.setattr(memory, "free", lambda device: room - 1)
    with pytest.raises(ValueError, match="at most 1") as refused:
        memory.refuse_too_many(2, setup)
    assert f"with {counted.shared / 2**20:.2f} MiB for logits" in str(refused.value)
