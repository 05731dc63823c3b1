"""PyTorch with sparse gradients of its tables: SparseAdam for rows, Adam for layers.

Forms: "eager"; "compiled", where torch.compile makes one program of both towers and the
loss. The look-ups stay outside of it: it does not take `sparse=True`
(pytorch/pytorch#150656).
"""

import session
import torch
from torch import nn
from torch.nn import functional


def make(job: session.Job) -> session.Trainer:
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    tables = nn.ModuleList(
        nn.Embedding(num + 2, job.width, sparse=True)
        for num in (job.num_users, job.num_items)
    )
    for table in tables:
        nn.init.normal_(table.weight, std=job.init_scale)
    towers = nn.ModuleList(
        nn.Sequential(
            nn.Linear(job.width, job.hidden),
            nn.ReLU(),
            nn.Linear(job.hidden, job.width),
        )
        for _ in tables
    )
    rows = torch.optim.SparseAdam(tables.parameters(), lr=job.learning_rate)
    layers = torch.optim.Adam(towers.parameters(), lr=job.learning_rate, fused=True)
    user, item = (torch.from_numpy(ids).long() for ids in (job.user, job.item))
    log_q = None if job.log_q is None else torch.from_numpy(job.log_q)
    target = torch.arange(job.batch_size)

    def loss_of(query, candidate, ids):
        query, candidate = (
            functional.normalize(tower(x), dim=1)
            for tower, x in zip(towers, (query, candidate), strict=True)
        )
        logits = query @ candidate.T / job.temperature
        if log_q is not None:
            logits = logits - log_q[ids]
            hits = (ids[:, None] == ids).fill_diagonal_(False)
            logits = logits.masked_fill(hits, -torch.inf)
        return functional.cross_entropy(logits, target)

    if job.form == "compiled":
        loss_of = torch.compile(loss_of)

    def train(examples):
        total = torch.zeros(())
        for batch in torch.from_numpy(examples):
            ids = item[batch]
            loss = loss_of(tables[0](user[batch]), tables[1](ids), ids)
            rows.zero_grad()
            layers.zero_grad()
            loss.backward()
            rows.step()
            layers.step()
            total += loss.detach()
        return total / len(examples)

    @torch.no_grad()
    def vectors():
        return tuple(
            functional.normalize(tower(table.weight[1:-1]), dim=1).numpy()
            for tower, table in zip(towers, tables, strict=True)
        )

    return session.Trainer(train, vectors)


if __name__ == "__main__":
    session.serve(make, packages=("torch",))
