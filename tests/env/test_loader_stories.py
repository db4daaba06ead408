"""Windows of stories reach a host in the order in which images would."""

import numpy as np
import pytest
import torch

from esper_env.engine.engine import EngineConfig
from esper_env.engine.feed import batch, plan
from esper_env.engine.kernels.torch_kernels import TorchKernels
from esper_env.engine.sizes import epoch_size, refuse_few, refuse_few_windows
from esper_env.tasks.config import DEFAULTS, TaskConfig
from esper_env.tasks.loader import AT_ONCE, evaluation_batches, order, train_batches
from esper_env.tasks.outline import Outline, outline, outline_of
from esper_env.tasks.plot import Words
from esper_env.tasks.stories import StoryTask
from esper_env.tasks.task import ImageTask, Split, load_task
from esper_env.tasks.windows import TextSplit

CPU = torch.device("cpu")
CONTEXT = 5


def make_task(num_train=50):
    """Tokens that count: sample i of a split begins with token i * CONTEXT, whatever the split."""
    splits = [
        TextSplit(torch.arange(count * CONTEXT + 1 + over, dtype=torch.int16), CONTEXT)
        for count, over in ((num_train, 3), (43, 0), (7, 1))
    ]
    return StoryTask("test", "numbers", *splits, code=Words())


def epochs(task, seed, count, epoch_size, batch_size):
    batches = [b for e in range(count) for b in train_batches(task, seed, e, epoch_size, batch_size)]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_a_split_has_the_windows_that_have_a_next_token_each():
    for length, expected in ((0, 0), (1, 0), (5, 0), (6, 1), (10, 1), (11, 2), (13, 2)):
        assert TextSplit(torch.zeros(length, dtype=torch.int16), CONTEXT).num_samples == expected


def test_x_is_the_window_and_y_the_same_one_token_later():
    split = make_task().train
    chosen = torch.tensor([[3, 0, 49], [7, 7, 1]])
    x, y = split.windows(chosen)
    assert x.shape == y.shape == (2, 3, CONTEXT)
    assert x.dtype == y.dtype == torch.int64
    assert x.tolist() == [[list(range(5 * i, 5 * i + 5)) for i in row] for row in chosen.tolist()]
    assert torch.equal(y, x + 1)


@pytest.mark.parametrize(("epoch_size", "batch_size"), [(32, 8), (48, 16), (120, 40)])
def test_windows_are_read_in_the_order_of_images(epoch_size, batch_size):
    x, _ = epochs(make_task(), 5, 3, epoch_size, batch_size)
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 1, 1, 1)
    split = Split(images, torch.arange(50))
    task = ImageTask("images", "numbers", split, split, split, 50, torch.zeros(1), torch.ones(1))
    _, labels = epochs(task, 5, 3, epoch_size, batch_size)
    assert torch.equal(x[:, 0] // CONTEXT, labels)
    assert np.array_equal(labels, order(5, 0, 3 * epoch_size, 50))


def test_the_feed_of_many_environments_is_that_of_each():
    task, seeds, at = make_task(), [3, 8, 3], [0, 2, 1]
    entries = plan(task, seeds, at, 32)
    assert entries.shape == (1, 3, 32)
    for begin in range(0, 32, 8):
        x, y = batch(task, TorchKernels({}, "channels_last"), entries[:, :, begin : begin + 8])
        for row, (seed, epoch) in enumerate(zip(seeds, at, strict=True)):
            own_x, own_y = list(train_batches(task, seed, epoch, 32, 8))[begin // 8]
            assert torch.equal(x[row], own_x)
            assert torch.equal(y[row], own_y)


@pytest.mark.parametrize(("limit", "expected"), [(None, 43), (10, 10), (1000, 43)])
@pytest.mark.parametrize("batch_size", [None, 9])
def test_evaluation_is_in_order_and_whole(limit, expected, batch_size):
    task = make_task()
    batches = list(evaluation_batches(task, task.validation, limit, batch_size))
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert x.tolist() == torch.arange(expected * CONTEXT).view(-1, CONTEXT).tolist()
    assert torch.equal(y, x + 1)
    assert max(len(x) for x, _ in batches) == min(batch_size or AT_ONCE["text"], expected)


@pytest.mark.parametrize("size", [0, 1, 30, 43, 60])
def test_the_first_samples_and_those_after_them_are_the_split(size):
    task = make_task()
    split = task.validation
    rest = split.after(size)
    assert rest.num_samples == max(43 - size, 0)
    parts = [*evaluation_batches(task, split, size), *evaluation_batches(task, rest)]
    whole = [x for x, _ in evaluation_batches(task, split)]
    assert torch.equal(torch.cat([x for x, _ in parts]), torch.cat(whole))


@pytest.mark.parametrize("size", [0, 20, 60])
def test_images_after_the_first_are_the_rest(size):
    split = Split(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1), torch.arange(50))
    rest = split.after(size)
    assert rest.num_samples == max(50 - size, 0)
    assert rest.labels.tolist() == rest.images.flatten().tolist() == list(range(50))[size:]


def test_the_task_is_never_written_to():
    task = make_task()
    before = task.train.tokens.clone(), task.validation.tokens.clone()
    for x, y in [*train_batches(task, 0, 0, 48, 16), *evaluation_batches(task, task.validation)]:
        x.zero_()
        y.zero_()
    assert torch.equal(task.train.tokens, before[0])
    assert torch.equal(task.validation.tokens, before[1])


def test_procedural_stories_say_what_they_are_and_are_held_once():
    config = TaskConfig(data="procedural", generator_seed=4)
    first, again = (load_task(config, CPU, "text", 16) for _ in range(2))
    assert first.provenance == "procedural stories, grammar v1, seed 4; 16 tokens a window"
    assert [each.num_samples for each in (first.train, first.validation, first.test)] == [2048, 128, 128]
    assert first.train.tokens.data_ptr() == again.train.tokens.data_ptr()
    assert first.in_type(torch.float64).dtype == torch.float64
    assert (first.dtype, first.num_classes, first.device) == (torch.float32, Words.size, CPU)
    assert first.decode(first.train.tokens[:5]) == first.decode(first.train.tokens[:5].tolist())


def test_the_context_is_the_hosts_unless_the_config_says_otherwise():
    config = TaskConfig(data="procedural", train_size=3, val_size=2, test_size=1)
    assert load_task(config, CPU, "text", 64).input_shape == (64,)
    assert load_task(config.model_copy(update={"context": 8}), CPU, "text", 64).input_shape == (8,)
    with pytest.raises(ValueError, match="context=None"):
        load_task(config, CPU, "text")


@pytest.mark.parametrize("family", ["image", "text"])
def test_an_outline_is_that_of_the_task(family):
    config = TaskConfig(data="procedural", image_size=8, train_size=30, val_size=20, test_size=10)
    told, task = outline(config, family, 16), load_task(config, CPU, family, 16)
    assert told == outline_of(task)
    assert told.chance_quality == (0 if family == "text" else 0.1)
    assert told.chance_loss == pytest.approx(np.log(Words.size if family == "text" else 10))


def test_real_stories_have_an_outline_before_they_are_read():
    config = TaskConfig(data="tinystories", data_dir="/nowhere", vocabulary=512)
    assert outline(config, "text", 128) == Outline((128,), 512, None, None, 0.0)


def test_sizes_that_are_not_given_are_those_of_the_kind():
    assert TaskConfig().sizes("image") == DEFAULTS["image"][:3] == (45_000, 5_000, 10_000)
    assert TaskConfig(val_size=7).sizes("text") == (2_048, 7, 128)
    assert (TaskConfig().validation_share("image"), TaskConfig().validation_share("text")) == (0.1, 0.05)


@pytest.mark.parametrize(
    ("data", "family", "allowed"),
    [
        ("cifar10", "text", "reads stories; allowed are 'tinystories' and 'procedural'"),
        ("folder:mine", "text", "reads stories; allowed are 'tinystories' and 'procedural'"),
        ("tinystories", "image", "reads images; allowed are 'cifar10', 'procedural' and 'folder:NAME'"),
    ],
)
def test_data_of_the_other_kind_are_refused_by_name_before_they_are_looked_for(data, family, allowed):
    config = TaskConfig(data=data, data_dir="/nowhere")
    for ask in (lambda: outline(config, family, 16), lambda: load_task(config, CPU, family, 16)):
        with pytest.raises(ValueError, match=rf"data='{data}' is not allowed: it holds .*{allowed}"):
            ask()


def engine(**settings):
    return EngineConfig(epoch_size=64, batch_size=32, counterfactual_size=16, **settings)


def test_fewer_windows_than_a_batch_are_refused_with_the_numbers():
    told = r"batch_size=32 .* data='tinystories' with vocabulary=4096 and context=256 has only 31 training"
    with pytest.raises(ValueError, match=told):
        refuse_few_windows(engine(), Outline((256,), 4096, 31, 20, 0.0), "tinystories")
    with pytest.raises(ValueError, match=r"counterfactual_size=16 .* has 15 samples"):
        refuse_few_windows(engine(), Outline((256,), 4096, 32, 15, 0.0), "tinystories")
    refuse_few_windows(engine(), Outline((256,), 4096, 32, 16, 0.0), "tinystories")


def test_sizes_that_are_not_known_yet_are_not_refused():
    unread = Outline((256,), 4096, None, None, 0.0)
    refuse_few(engine(), unread)
    assert epoch_size(engine(), unread) == 64
    full = engine().model_copy(update={"epoch_size": "full", "name": "null"})
    refuse_few(full, unread)
    with pytest.raises(ValueError, match=r"epoch_size='full' .* engine='null' reads none"):
        epoch_size(full, unread)
    assert epoch_size(full, Outline((256,), 4096, 100, 20, 0.0)) == 96
