"""An objective: what the candidates of a step cost, by the loss that a config names."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recall_jax.devices import mesh
from recall_jax.losses import candidates, losses, scores, softmax
from recall_jax.losses import negatives as negatives_lib
from recall_jax.losses.negatives import NegativesConfig, Remembered, StepData
from recall_jax.losses.scores import Logits
from recall_jax.types import (
    Batch,
    Hypers,
    InputError,
    Key,
    bounded,
    check_fields,
    choice,
)

POINTWISE = {"logistic": losses.logistic_loss, "squared": losses.squared_loss}
SIMILARITY = ("hinge", "cosine_contrastive")  # losses that know no temperature
CORRECTIONS = {  # of a loss; none for those not named
    "softmax": negatives_lib.CORRECTIONS,
    "bpr": ("none", "log_q"),
    "logistic": ("none", "log_q"),
}
TEMPERATURES = (0.01, 10.0)  # between which a learned one stays


@dataclasses.dataclass
class LossConfig:
    """The loss, and the temperature of the logits that it sees."""

    name: str = choice("softmax", lambda: LOSSES)
    temperature: float = bounded(0.07, above=0)
    # A learned one starts from `temperature`.
    temperature_kind: str = choice("fixed", ("fixed", "learned"))
    margin: float = 0.5  # of hinge and cosine_contrastive
    # Of the negatives' mean (contrastive, pointwise).
    negative_weight: float = bounded(1.0, 0)
    calibration: float = bounded(0.75, 0, 1)  # gbce's t


def _softmax(logits: Logits, hypers: Hypers, num_items: int) -> Float[Array, "b"]:
    return losses.softmax_loss(logits.positive, logits.negative, where=logits.where)


def _bpr(logits: Logits, hypers: Hypers, num_items: int) -> Float[Array, "b"]:
    return losses.bpr_loss(logits.positive, logits.negative, where=logits.where)


def _hinge(logits: Logits, hypers: Hypers, num_items: int) -> Float[Array, "b"]:
    return losses.hinge_loss(
        logits.positive, logits.negative, margin=hypers["margin"], where=logits.where
    )


def _cosine_contrastive(logits: Logits, hypers: Hypers, num_items: int):
    return losses.cosine_contrastive_loss(
        logits.positive,
        logits.negative,
        margin=hypers["margin"],
        negative_weight=hypers["negative_weight"],
        where=logits.where,
    )


def _gbce(logits: Logits, hypers: Hypers, num_items: int) -> Float[Array, "b"]:
    return losses.gbce_loss(
        logits.positive,
        logits.negative,
        num_items=num_items,
        calibration=hypers["calibration"],
        where=logits.where,
    )


def _pointwise(loss: Callable) -> Callable:
    """The positive with label 1 and, weighted, the mean of the negatives with label 0."""

    def listwise(logits: Logits, hypers: Hypers, num_items: int) -> Float[Array, "b"]:
        positive = loss(logits.positive, jnp.ones_like(logits.positive))
        negative = loss(logits.negative, jnp.zeros_like(logits.negative))
        pushed = losses.masked_mean(negative, logits.where)
        return positive + hypers["negative_weight"] * pushed

    return listwise


LOSSES = {
    "softmax": _softmax,
    "bpr": _bpr,
    "gbce": _gbce,
    "hinge": _hinge,
    "cosine_contrastive": _cosine_contrastive,
    **{name: _pointwise(loss) for name, loss in POINTWISE.items()},
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A cell of the grid loss x negatives x correction x masks."""

    loss: LossConfig
    negatives: NegativesConfig

    def draw(
        self,
        batch: Batch,
        key: Key,
        *,
        source: StepData,
        state: Remembered,
        query: Callable[[], Float[Array, "b d"]] | None,
    ) -> tuple[candidates.Sample, Remembered]:
        """The candidates of a batch, and the state with the batch counted."""
        return candidates.draw(
            self.negatives, batch, key, source=source, state=state, query=query
        )

    def total(
        self,
        query: Float[Array, "b d"],
        item: Float[Array, "n d"],
        *,
        sample: candidates.Sample,
        batch: Batch,
        source: StepData,
        state: Remembered,
        hypers: Hypers,
    ) -> tuple[Float[Array, ""], Float[Array, "b d"] | None]:
        """sum_i weight_i loss_i, given the vectors of the sample's ids, and the
        positives' vectors as `advance` takes them.

        Over many devices each has its rows of the vectors, gathers all columns, and
        computes its rows' loss with all gradients of it; the gradients of columns are
        summed where they go back.
        """
        step_inputs = {
            "sample": sample,
            "batch": batch,
            "source": source,
            "state": state,
        }
        if mesh.num_devices() == 1:
            return self._total(query, item, hypers=hypers, **step_inputs)
        step_inputs["batch"] = batch._replace(query={})
        return _spread_total(
            self, query, item, hypers["temperature"], hypers, step_inputs
        )

    def _total(self, query, item, *, sample, batch, source, state, hypers):
        """`total`, inside `mesh.spread` the share of this device's rows."""
        config, name = self.negatives, self.loss.name
        weight = mesh.mine(sample.weight)
        unscaled = {"temperature": jnp.ones_like(hypers["temperature"])}
        hypers = hypers | unscaled if name in SIMILARITY else hypers
        scale = {field: hypers[field] for field in ("temperature", "strength")}
        step_inputs = {"sample": sample, "batch": batch, "state": state}
        if name == "softmax" and candidates.keeps_columns_split(
            sample, batch, config=config
        ):
            return self._softmax_over_split(
                query, item, step_inputs, source, scale
            ), None
        parts = candidates.split_parts(config, item, **step_inputs)
        kept = None
        if config.kind == "queue":
            kept = jax.lax.stop_gradient(parts.columns[: batch.item.size])
        if config.kind == config.own == "none":
            score = scores.positive_logits(query, parts.positive, **scale)
            label = mesh.mine(batch.label)
            return jnp.sum(POINTWISE[name](score, label) * weight), kept
        step_inputs |= {"rows": candidates.rows_of(config, batch, source=source)}
        columns = candidates.columns_of(config, parts, source=source, **step_inputs)
        own = candidates.own_of(
            config, rows=step_inputs["rows"], sample=sample, batch=batch, source=source
        )
        logits = _own_logits(query, parts, own=own, scale=scale)
        if columns is not None:
            correction = columns.correction
            positive = scores.positive_logits(
                query, parts.positive, correction=correction, **scale
            )
            logits = logits._replace(positive=positive)
            if name == "softmax" and not config.hardest:
                args = (query, columns, logits)
                return softmax.softmax_sum(*args, weight=weight, **scale), kept
            logits = _with_columns(logits, query, columns, scale=scale, config=config)
        num_items = source.dataset.known_items
        return jnp.sum(LOSSES[name](logits, hypers, num_items) * weight), kept

    def _softmax_over_split(self, query, item, step_inputs, source, scale):
        """The softmax of `_total` against the whole catalogue, each device's part of it
        where it is."""
        config, sample, batch = (
            self.negatives,
            step_inputs["sample"],
            step_inputs["batch"],
        )
        parts, columns = candidates.split_columns(
            config, item, sample=sample, batch=batch, source=source
        )
        rows = candidates.rows_of(config, batch, source=source)
        own = candidates.own_of(
            config, rows=rows, sample=sample, batch=batch, source=source
        )
        logits = _own_logits(query, parts, own=own, scale=scale)
        weight = mesh.mine(sample.weight)
        return softmax.split_softmax_sum(
            query, columns, logits, weight=weight, temperature=scale["temperature"]
        )

    def advance(
        self,
        state: Remembered,
        *,
        sample: candidates.Sample,
        batch: Batch,
        vectors: Float[Array, "b d"] | None,
    ) -> Remembered:
        """The state after a step, given what `total` kept."""
        return candidates.advance(
            self.negatives, state, sample=sample, batch=batch, vectors=vectors
        )

    @property
    def refresh_every(self) -> int:
        """Dispatches between refreshes of the state's index; 0: there is none."""
        semi_hard = self.negatives.own == "semi_hard"
        return self.negatives.refresh_every if semi_hard else 0

    def init_loss(self) -> dict[str, Array]:
        """The parameters of the loss itself."""
        if self.loss.temperature_kind == "fixed":
            return {}
        return {"log_temperature": jnp.log(jnp.float32(self.loss.temperature))}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread_total(objective: Objective, query, item, temperature, hypers, step_inputs):
    return _spread_forward(objective, query, item, temperature, hypers, step_inputs)[0]


def _spread_forward(objective, query, item, temperature, hypers, step_inputs):
    """The sum over devices, and the gradients of query, item and temperature."""

    def local(query, item, temperature, hypers, step_inputs):
        def share(query, item, temperature):
            changed = hypers | {"temperature": temperature}
            return objective._total(query, item, hypers=changed, **step_inputs)

        share = jax.value_and_grad(share, argnums=(0, 1, 2), has_aux=True)
        (value, kept), (*vectors, of_temperature) = share(query, item, temperature)
        gradients = (*vectors, mesh.total(of_temperature))
        return (mesh.total(value), kept), gradients

    split, whole = mesh.SPLIT, mesh.WHOLE
    spread = mesh.spread(
        local,
        in_specs=(split, split, whole, whole, whole),
        out_specs=((whole, whole), (split, split, whole)),
    )
    return spread(query, item, temperature, hypers, step_inputs)


def _spread_backward(objective, gradients, cotangent):
    of_value, _ = cotangent
    return (*(of_value * g for g in gradients), None, None)


_spread_total.defvjp(_spread_forward, _spread_backward)


def check_labels(loss: LossConfig, labels: Array | None) -> None:
    """Raise InputError for labels that the loss cannot fit."""
    if labels is None or loss.name != "logistic":
        return
    low, high = float(labels.min()), float(labels.max())
    if low < 0 or high > 1:
        raise InputError(
            f"loss.name=logistic takes labels from 0 to 1, and data.label has {low:g} to "
            f"{high:g}; set loss.name=squared"
        )


def with_learned(hypers: Hypers, params: dict[str, Array]) -> Hypers:
    """The hypers with a learned temperature in the fixed one's place."""
    if "log_temperature" not in params:
        return hypers
    return hypers | {"temperature": jnp.exp(params["log_temperature"])}


def clamped(params: dict[str, Array]) -> dict[str, Array]:
    """The parameters of the loss, brought back to where they may be."""
    low, high = np.log(TEMPERATURES)
    return {name: jnp.clip(value, low, high) for name, value in params.items()}


def _own_logits(
    query, parts: candidates.Parts, *, own: candidates.Own, scale
) -> Logits:
    """Logits of the own candidates alone; none where there are none."""
    positive = scores.positive_logits(query, parts.positive, **scale)
    if parts.own is None:
        return Logits(positive, query[:, :0], jnp.zeros((len(query), 0), bool))
    negative = scores.own_logits(query, parts.own, log_q=own.log_q, **scale)
    return Logits(positive, negative, own.where)


def _with_columns(
    own: Logits,
    query,
    columns: candidates.SharedCandidates,
    *,
    scale,
    config: NegativesConfig,
) -> Logits:
    """Own candidates and the columns, perhaps only the hardest of these."""
    shared = Logits(
        own.positive,
        scores.column_logits(
            query, columns.vector, correction=columns.correction, **scale
        ),
        scores.allowed(columns.mask),
    )
    if config.hardest:
        shared = scores.hardest(shared, num=config.hardest)
    return scores.join(shared, own.negative, own.where)


def make_objective(loss: LossConfig, config: NegativesConfig) -> Objective:
    """The cell of the grid that a config names; InputError where there is none."""
    negatives_lib.check(config)
    check_fields(loss, "--config.loss")
    similarity, labelled = loss.name in SIMILARITY, config.kind == config.own == "none"
    learned, (low, high) = loss.temperature_kind == "learned", TEMPERATURES
    allowed = CORRECTIONS.get(loss.name, ("none",))
    problems = {
        f"negatives.correction={config.correction} means nothing for loss.name="
        f"{loss.name}; set negatives.correction to one of: "
        + ", ".join(allowed): config.correction not in allowed,
        "loss.name=gbce goes by the rate at which negatives were drawn, and "
        "negatives.hardest picks them; set one of them otherwise": loss.name == "gbce"
        and config.hardest > 0,
        f"loss.name={loss.name} is of similarities and knows no temperature to learn; "
        "set loss.temperature_kind=fixed": similarity and learned,
        f"a learned temperature starts at {loss.temperature} but stays between {low} "
        f"and {high}; start inside": learned and not low <= loss.temperature <= high,
        f"negatives.kind=none leaves loss.name={loss.name} only labels, which "
        f"{' and '.join(POINTWISE)} can use; name a kind or one of these": labelled
        and loss.name not in POINTWISE,
    }
    for text, wrong in problems.items():
        if wrong:
            raise InputError(text)
    return Objective(loss, config)
