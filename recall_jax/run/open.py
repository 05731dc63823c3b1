"""A run by its folder: its results, its lists, its vectors, and its export."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recall_jax.data import prepared
from recall_jax.data.log import Interactions
from recall_jax.data.prepared import Data
from recall_jax.evaluate import encode, measure
from recall_jax.run import config as config_lib
from recall_jax.run import data as data_lib
from recall_jax.run import folder as folder_lib
from recall_jax.run import restored as restored_lib
from recall_jax.run.config import Experiment
from recall_jax.serve import recommender as recommender_lib
from recall_jax.serve import towers, writer
from recall_jax.types import InputError, unknown


class Run:
    """A trained run. Its data are read, and its model restored, when something first
    asks for them: the results need neither."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        config: Experiment | None = None,
        results: dict[str, Any] | None = None,
    ):
        self.workdir = workdir.expanduser().absolute()
        path = self.workdir / "config.json"
        if not path.is_file():
            raise InputError(f"{workdir} holds no run: it has no config.json")
        self.config = config_lib.read(path) if config is None else config
        self._results = results

    def __repr__(self) -> str:
        return f"Run({str(self.workdir)!r})"

    @property
    def results(self) -> dict[str, Any]:
        """What results.json says: "test" has the metrics of the chosen model, "baselines"
        those of every baseline. Raises InputError where the run is not finished."""
        if self._results is not None:
            return self._results
        path = self.workdir / "results.json"
        if not path.is_file():
            raise InputError(
                f"{self.workdir} is not finished: it has no results.json; train it again "
                "there, and it goes on"
            )
        return folder_lib.read_results(path)

    @functools.cached_property
    def log(self) -> Interactions:
        """The events, read anew; of a streamed log its users and items alone."""
        if data_lib.is_streamed(self.config):
            return prepared.entities(self.config.data, self.data)
        return self.config.data.load()

    @functools.cached_property
    def data(self) -> Data:
        """The log split and laid out, as the run trains on it."""
        if data_lib.is_streamed(self.config):
            return data_lib.open_data(self.config)
        return data_lib.lay_out(self.config, self.log)

    @functools.cached_property
    def restored(self) -> restored_lib.Restored:
        """The chosen model. Raises InputError where none is chosen yet, or where the
        data have changed."""
        return restored_lib.restore(self.config, self.data, self.workdir)

    @functools.cached_property
    def loaded(self) -> restored_lib.LoadedRun:
        """The chosen model and its items."""
        return restored_lib.load(self.config, self.log, self.data, self.restored)

    @functools.cached_property
    def recommender(self) -> recommender_lib.Recommender:
        return recommender_lib.Recommender(
            restored_lib.served(self.loaded, self.workdir)
        )

    def recommend(
        self,
        user: Any = None,
        history: Sequence[Any] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int = 10,
        seen: str = "auto",
    ) -> recommender_lib.Recommended:
        """The k best items for a user, or for somebody new: `Recommender.recommend`."""
        return self.recommender.recommend(user, history, features, k, seen)

    def similar(self, item: Any, k: int = 10) -> recommender_lib.Listed:
        """The k items nearest to one by raw id: `Recommender.similar`."""
        return self.recommender.similar(item, k)

    def vectors(self, side: str = "items") -> tuple[np.ndarray, np.ndarray]:
        """Raw ids [n] and vectors float32 [n, d] of all "items", or of all "users" at
        the end of their whole history, what was held out for tests included. The items
        that are most frequent in training come first."""
        if side not in ("items", "users"):
            raise unknown("vectors", side, ("items", "users"))
        vocabularies = self.data.vocabularies
        if side == "items":
            return vocabularies["item"].ids, self.loaded.served
        encoder, params, data, *_ = self.export_source
        users = np.arange(1, len(data.user_codes) + 1, dtype=np.int32)
        rows = encode.in_batches(
            functools.partial(encoder.query, params, data.dataset),
            users,
            towers.history_ends(data, users),
            batch_size=self.config.evaluate.batch_size,
        )
        return vocabularies["user"].ids, np.asarray(rows.everywhere())

    def export(
        self,
        folder: str | os.PathLike,
        *,
        dtype: str = "float32",
        batch_size: int = 4096,
        users: bool = True,
    ) -> writer.Report:
        """Write towers, vocabularies and vectors as files that serve without this run,
        in place of an older export: recall_jax/serve/export.md says what is in them. Raises
        InputError where the folder holds something else."""
        config = writer.Config(dtype=dtype, batch_size=batch_size, users=users)
        folder = pathlib.Path(folder).expanduser()
        writer.check(folder, config)  # before anything long
        return writer.write(self.export_source, folder, config=config)

    @functools.cached_property
    def export_source(self) -> towers.ExportSource:
        config, data = self.config, self.data
        encoder, params, _ = self.restored
        if data.log is not None:  # users' vectors are made of all of their histories
            data = prepared.resident(data)
        return towers.ExportSource(
            encoder,
            params,
            data,
            name=config.name,
            titles=restored_lib.titles_of(self.log, data),
            seen="removed" if measure.removes_seen(config.evaluate, data) else "kept",
        )


def open_run(workdir: str | os.PathLike) -> Run:
    """The run of a folder. Raises InputError where there is none."""
    return Run(pathlib.Path(workdir))
