"""``hydra/sweeper=telling``: two batches, of which the second says what it was told of the first one's points."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class TellingConf:
    _target_: str = "hydra_plugins.telling_sweeper.TellingSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="telling", node=TellingConf, provider="telling")


class TellingSweeper(Sweeper):
    """Asks for two models, and again for both with a seed made of the first ones' values."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**given)  # type: ignore[arg-type]

    def sweep(self, arguments: list[str]) -> None:
        values = self._launched([[*arguments, f"model.name={name}"] for name in "ab"], 0)
        seeds = [f"evaluate.seed={round(1000 * value)}" for value in values]
        self._launched([[*arguments, f"model.name={name}", seed] for name, seed in zip("ab", seeds, strict=True)], 2)

    def _launched(self, batch: Sequence[Sequence[str]], number: int) -> list[float]:
        return [float(one.return_value) for one in self.launcher.launch(batch, initial_job_idx=number)]
