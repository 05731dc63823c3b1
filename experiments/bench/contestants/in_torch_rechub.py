"""Torch-RecHub's own parts: its DSSM, its data set in a DataLoader, its MatchTrainer with
in-batch negatives, Adam over everything.

Forms: "in_batch" loads in the process that trains; "workers" in as many others as there
are threads, begun anew at each call as at each of its epochs. 0.9.0's
MatchDataGenerator, and with it its DSSM example, has 8 of them whatever the machine.

Its in-batch mode has neither a temperature nor a correction. Both enter through the
vectors, of which only inner products count: queries are divided by the temperature, and
one more coordinate, 1 on their side, is -log q on the item's. Accidental hits stay in.
Its MLP has batch norm behind every layer, and an activation behind the last one, prelu in
its examples.
"""

import functools

import session
import torch
import tqdm
from torch_rechub.basic.features import SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import TorchDataset


class Scaled(DSSM):
    """Its towers, as the loss should see them."""

    def __init__(self, *features, log_q, **named):
        super().__init__(*features, **named)
        self.register_buffer("log_q", log_q)

    def user_tower(self, x):
        query = super().user_tower(x) / self.temperature
        if self.log_q is None:
            return query
        return torch.cat([query, torch.ones(len(query), 1)], dim=1)

    def item_tower(self, x):
        item = super().item_tower(x)
        if self.log_q is None:
            return item
        return torch.cat([item, -self.log_q[x["item"].long()][:, None]], dim=1)


def make(job: session.Job) -> session.Trainer:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    # A progress bar a second is its, not ours to read.
    tqdm.tqdm = functools.partial(tqdm.tqdm, disable=True)
    initializer = RandomNormal(0, job.init_scale)
    features = (
        [SparseFeature(name, num + 2, job.width, initializer=initializer)]
        for name, num in (("user", job.num_users), ("item", job.num_items))
    )
    params = {"dims": [job.hidden, job.width], "activation": "prelu"}
    model = Scaled(
        *features,
        user_params=params,
        item_params=params,
        temperature=job.temperature,
        log_q=None if job.log_q is None else torch.from_numpy(job.log_q),
    )
    trainer = MatchTrainer(
        model,
        mode=2,
        in_batch_neg=True,
        optimizer_params={"lr": job.learning_rate},
    )

    def train(examples):
        rows = examples.reshape(-1)
        columns = {"user": job.user[rows], "item": job.item[rows]}
        loader = torch.utils.data.DataLoader(
            TorchDataset(columns, torch.zeros(len(rows))),
            batch_size=job.batch_size,
            num_workers=job.threads if job.form == "workers" else 0,
        )
        return trainer.train_one_epoch(loader)

    @torch.no_grad()
    def vectors():
        model.eval()
        user, item = (
            {name: torch.arange(1, num + 1)}
            for name, num in (("user", job.num_users), ("item", job.num_items))
        )
        return DSSM.user_tower(model, user).numpy(), DSSM.item_tower(
            model, item
        ).numpy()

    return session.Trainer(train, vectors)


if __name__ == "__main__":
    session.serve(make, packages=("torch-rechub", "torch"))
