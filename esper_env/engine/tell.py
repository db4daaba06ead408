"""A story that a network tells: token after token, each drawn from what the network expects next."""

import torch
from torch import nn

from esper_env.engine import snapshot
from esper_env.engine.engine import Engine
from esper_env.engine.life import Life
from esper_env.engine.setup import Setup
from esper_env.tasks.stories import StoryTask


def harvested(engine: Engine, setup: Setup, env: int) -> Life:
    """A copy of one environment's network as the harvest would leave it, from its state.

    Args:
        engine: One that trains; it stays as it is.
        setup: What it was built from.
        env: Index of the environment.
    """
    life = snapshot.from_state(setup, engine.get_state(env)["life"])
    life.remove_uncommitted()
    life.model.eval()
    return life


@torch.no_grad()
def tell(network: nn.Module, task: StoryTask, count: int, temperature: float, seed: int) -> list[int]:
    """A story from its beginning: the tokens after an end token, up to the next one, which is left out.

    Args:
        network: int64 tokens (batch, token), at most a context of them, to logits (batch, token, vocabulary).
        task: for the end token and the context, of which the network sees as much as fits.
        count: most tokens.
        temperature: what logits are divided by before a token is drawn; 0 takes the most probable one.
        seed: of the draws, which are made on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    context, tokens = task.input_shape[0], [task.code.end]
    for _ in range(count):
        x = torch.tensor([tokens[-context:]], device=task.device)
        token = _draw(network(x)[0, -1].double().cpu(), temperature, generator)
        if token == task.code.end:
            break
        tokens.append(token)
    return tokens[1:]


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    likely = torch.softmax((logits - logits.max()) / temperature, dim=0)
    return int(torch.multinomial(likely, 1, generator=generator))
