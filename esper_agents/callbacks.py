"""What a training run reports, and the pictures and texts it writes: functions over a small state.

Nothing here knows the library that trains: its callback hands in every `Step` and takes the tags out.
"""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from esper_agents.episodes import Episode, EpisodeCounter, Step
from esper_agents.evaluate import Evaluation
from esper_env import EsperVectorEnv, Head, Op

Tags = dict[str, float]

EPISODE_TAGS = {
    "host/val_accuracy": "val_accuracy",
    "host/harvest_accuracy": "harvest_accuracy",
    "host/test_accuracy": "test_accuracy",
    "host/val_loss": "val_loss",
    "host/harvest_loss": "harvest_loss",
    "host/test_loss": "test_loss",
    "growth/param_ratio": "param_ratio",
    "growth/flops_ratio": "flops_ratio",
    "governor/rollbacks": "rollbacks",
}
"""Tag -> measurement of which it is the mean over the episodes that ended."""


class RoundReport:
    """The tags of one round, summed up while it is played.

    Args:
        env: What is played.
    """

    def __init__(self, env: EsperVectorEnv) -> None:
        self._counter, self._num_envs = EpisodeCounter(env), env.num_envs
        self._characters = (env.metadata["characters_per_token"] or {}).get("validation")
        self._alpha_at = [env.features[f"slot{slot}.alpha"].start for slot in range(env.facts.num_slots)]
        self.begin()

    def begin(self, anew: bool = True) -> None:
        """A new round; episodes that are under way go on, or are forgotten where all begin anew."""
        if anew:
            self._counter.begin([None] * self._num_envs)
        self.episodes: list[Episode] = []
        self._began = time.perf_counter()
        self._steps, self._invalid = 0, 0
        self._alpha = np.zeros(len(self._alpha_at))
        self._ops = np.zeros(len(Op), dtype=np.int64)

    def add(self, step: Step) -> None:
        """Count one step of all environments."""
        self.episodes += self._counter.add(step)
        self._steps += len(step.ended)
        self._invalid += int((~step.info["action_valid"]).sum())
        self._alpha += step.obs[:, self._alpha_at].sum(axis=0)
        self._ops += np.bincount(step.actions[:, Head.OP], minlength=len(Op))

    def tags(self) -> Tags:
        """Everything to report of the round so far; what was not measured is left out."""
        if not self._steps:
            return {}
        tags = {f"slot/{slot}/alpha": float(value) / self._steps for slot, value in enumerate(self._alpha)}
        tags |= {f"actions/{op.name.lower()}_share": float(self._ops[op]) / self._steps for op in Op}
        tags["actions/invalid_share"] = self._invalid / self._steps
        tags["perf/env_steps_per_s"] = self._steps / (time.perf_counter() - self._began)
        tags |= episode_tags(self.episodes)
        return tags | text_tags("host", tags.get("host/val_loss"), self._characters)


def episode_tags(episodes: Sequence[Episode]) -> Tags:
    """Means over episodes that ended: accuracies, losses, growth, return, and the sum of each reward term."""
    if not episodes:
        return {}
    tags = {
        "charts/episodic_return": _mean([e.total_reward for e in episodes]),
        "charts/episodic_length": _mean([e.length for e in episodes]),
        "growth/fossilized": _mean([e.fossilized for e in episodes]),
        "growth/pruned": _mean([e.pruned for e in episodes]),
    }
    for name in episodes[0].reward_terms:
        tags[f"reward/{name}"] = _mean([e.reward_terms[name] for e in episodes])
    for tag, key in EPISODE_TAGS.items():
        found = [value for e in episodes if (value := e.measured[key]) is not None]
        if found:
            tags[tag] = _mean(found)
    return tags


EVALUATED = (
    *("val_accuracy", "harvest_accuracy", "test_accuracy", "val_loss", "harvest_loss", "test_loss"),
    *("param_ratio", "invalid_share"),
)
"""Figures of an evaluation that are logged."""


def evaluation_tags(evaluation: Evaluation) -> Tags:
    """Means of an evaluation; the first two have Stable-Baselines3's names."""
    summary = evaluation.summary()
    tags = {"eval/mean_reward": summary["total_reward"].mean, "eval/mean_ep_length": summary["length"].mean}
    tags |= {f"eval/{key}": summary[key].mean for key in EVALUATED if key in summary}
    characters = (evaluation.characters_per_token or {}).get("test")
    return tags | text_tags("eval", tags.get("eval/test_loss"), characters)


def text_tags(group: str, loss: float | None, characters_per_token: float | None) -> Tags:
    """A loss in nats a token in the units of language models; none where the host reads no text.

    Args:
        group: What comes before the slash.
        loss: The mean over tokens, None where it was not measured.
        characters_per_token: Of the split that the loss was measured on, None where there is no text.
    """
    if loss is None or characters_per_token is None:
        return {}
    bits = loss / math.log(2) / characters_per_token
    # Beyond this the exponential is no number any more.
    return {f"{group}/perplexity": math.exp(min(loss, 700)), f"{group}/bits_per_character": bits}


def write_evaluation(writer: SummaryWriter, evaluation: Evaluation, step: int) -> None:
    """Its tags, and of its first episode the picture and the story that the network told."""
    for tag, value in evaluation_tags(evaluation).items():
        writer.add_scalar(tag, value, step)
    if evaluation.picture is not None:
        writer.add_image("eval/episode", evaluation.picture, step, dataformats="HWC")
    if evaluation.story is not None:
        write_texts(writer, {"eval/story": evaluation.story}, step)
    writer.flush()


def write_texts(writer: SummaryWriter, texts: Mapping[str, str], step: int) -> None:
    """Texts such as the configuration, shown as they are."""
    for tag, text in texts.items():
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        writer.add_text(tag, indented, step)
    writer.flush()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
