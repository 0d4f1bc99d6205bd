"""Beam search with the hypotheses, scores and ends of transformers' `generate`, so that it finds the same texts.

The hypotheses of a source may be in several groups (diverse beam search: Vijayakumar et al. 2018, algorithm 1). Each
group is a beam search of its own, for which tokens are less likely that the groups before it have taken in this step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from stages.lib.core.process import UserError
from stages.lib.generation.batch import Batch
from stages.lib.generation.constraints import Constraint
from stages.lib.generation.rules import Rules
from stages.lib.generation.written import Stops, Written

_NEVER = -1e9  # of `generate`: the score of a hypothesis that must not be chosen


@dataclass
class _Hypotheses:
    """B groups, H hypotheses each."""

    ids: Tensor  # (B, H, T): the tokens written, then any
    lengths: Tensor  # (B, H)
    scores: Tensor  # (B, H), what the search compares
    log_probabilities: Tensor  # (B, H), before penalties

    def __getitem__(self, places: Tensor) -> "_Hypotheses":
        """Those at the places (B, K) in the second dimension."""
        ids = self.ids.gather(1, places[:, :, None].expand(-1, -1, self.ids.shape[2]))
        others = (own.gather(1, places) for own in (self.lengths, self.scores, self.log_probabilities))
        return _Hypotheses(ids, *others)

    def of(self, groups: Tensor) -> "_Hypotheses":
        return _Hypotheses(*(own[groups] for own in self._parts()))

    def beside(self, other: "_Hypotheses") -> "_Hypotheses":
        return _Hypotheses(*(torch.cat(both, 1) for both in zip(self._parts(), other._parts(), strict=True)))

    def written(self, group: int) -> list[tuple[float, Written]]:
        """Each with its score."""
        scores, *others = (own[group].tolist() for own in (self.scores, self.ids, self.lengths, self.log_probabilities))
        written = (Written(ids[:length], own) for ids, length, own in zip(*others, strict=True))
        return list(zip(scores, written, strict=True))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.ids, self.lengths, self.scores, self.log_probabilities


def beam_texts(
    network: PreTrainedModel,
    sources: Sequence[list[int]],
    config: GenerationConfig,
    stops: Stops,
    constraint: Constraint | None,
) -> list[Written]:
    """The best `num_return_sequences` hypotheses of each source, one source after the other, the best first.

    Args:
        config: `num_beam_groups` divide the beams, and `diversity_penalty` is taken off the log-probability of a token
            for each time that a group before has taken it.

    Raises:
        NotPlain: the network needs `plain_texts`.
        UserError: the constraint allows fewer texts.
    """
    search = _Search(network, sources, config, stops, constraint)
    while not search.is_over():
        search.step()
    count = config.num_return_sequences or 1
    ranked = (sorted(found, key=lambda own: -own[0]) for found in search.found)
    texts = [text for own in ranked for _, text in own[:count]]
    if not all(text.ids for text in texts):
        raise UserError(f"predict -> candidates: there are fewer than {count} texts of the form; lower it")
    return texts


class _Search:
    """`found` fills with the texts of each source and their scores."""

    def __init__(
        self,
        network: PreTrainedModel,
        sources: Sequence[list[int]],
        config: GenerationConfig,
        stops: Stops,
        constraint: Constraint | None,
    ) -> None:
        self._config, self._stops = config, stops
        beams, self._groups = int(config.num_beams or 1), int(config.num_beam_groups or 1)
        self._beams = beams // self._groups  # of a group
        self._batch = Batch(network, sources, config, beams)
        self._device = device = self._batch.logits.device
        self._rules = Rules(network, config, sources, constraint)
        self._length, self._most = 0, int(config.max_new_tokens or 0)
        ends = 1 if isinstance(config.eos_token_id, int) else len(config.eos_token_id or ())
        self._kept = max(2, 1 + ends) * self._beams  # so that enough go on even if the best have all ended
        self.found: list[list[tuple[float, Written]]] = [[] for _ in sources]
        self._running_groups = list(range(len(sources) * self._groups))  # those of one source are neighbours

        shape = len(self._running_groups), self._beams
        ids = torch.zeros(*shape, self._most, dtype=torch.long, device=device)
        lengths, zeros = (torch.zeros(shape, dtype=kind, device=device) for kind in (torch.long, torch.float))
        # the rows of a group are equal at first, so that only the first counts
        only_first = zeros.index_fill(1, torch.arange(1, self._beams, device=device), _NEVER)
        self._running = _Hypotheses(ids, lengths, only_first, zeros)
        self._finished = _Hypotheses(ids, lengths, torch.full_like(zeros, _NEVER), zeros)
        self._is_finished = torch.zeros(shape, dtype=torch.bool, device=device)
        # of each hypothesis, among those of its group: hypotheses are in the order of their scores, rows are not
        self._rows = torch.arange(self._beams, device=device).repeat(len(self._running_groups), 1)

    def is_over(self) -> bool:
        return not self._running_groups

    def step(self) -> None:
        """One more token for each running hypothesis."""
        continued, beams = self._continued()
        has_ended = self._has_ended(continued)
        self._finish(continued, has_ended)
        scores = continued.scores + has_ended.float() * _NEVER
        places = scores.topk(self._beams).indices
        self._running = continued[places]
        self._running.scores = scores.gather(1, places)
        is_over = self._cannot_improve() | has_ended.all(1)
        self._go_on(beams.gather(1, places), is_over)

    def _continued(self) -> tuple[_Hypotheses, Tensor]:
        """The best continuations of each group, (B, kept), and the beam that each continues."""
        running = self._running
        count, vocabulary = len(self._running_groups), self._batch.logits.shape[-1]
        first_rows = torch.arange(count, device=self._device)[:, None] * self._beams
        logits = self._batch.logits[(first_rows + self._rows).flatten()].log_softmax(-1)
        sources = [group // self._groups for group in self._running_groups for _ in range(self._beams)]
        scores = self._rules(logits, sources, running.ids[:, :, : self._length].flatten(0, 1))
        best, places = self._best(scores.view(count, self._beams, -1) + running.scores[:, :, None])
        beams, tokens = places // vocabulary, places % vocabulary
        continued = running[beams]
        continued.scores = best
        continued.log_probabilities += logits.view(count, -1).gather(1, places)
        continued.ids[:, :, self._length] = tokens
        self._length += 1
        continued.lengths.fill_(self._length)
        return continued, beams

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best continuations of each group, (B, kept), and their places among all, from scores (B, H, vocabulary).
        The groups of a source choose one after the other."""
        if self._groups == 1:
            return scores.flatten(1).topk(self._kept)
        groups = torch.tensor(self._running_groups, device=self._device)
        sources, numbers = groups // self._groups, groups % self._groups
        taken = scores.new_zeros(len(self.found), scores.shape[2])  # how often, by the groups before
        best = scores.new_empty(len(groups), self._kept)
        places = torch.empty_like(best, dtype=torch.long)
        for number in range(self._groups):
            own = (numbers == number).nonzero()[:, 0]
            penalty = self._config.diversity_penalty * taken[sources[own]]
            best[own], places[own] = (scores[own] - penalty[:, None]).flatten(1).topk(self._kept)
            tokens = places[own] % scores.shape[2]
            goes_on = (best[own] + self._stops.are_ends(tokens) * _NEVER).topk(self._beams).indices
            tokens = tokens.gather(1, goes_on)
            taken.index_put_((sources[own][:, None], tokens), taken.new_ones(()), accumulate=True)
        return best, places

    def _has_ended(self, continued: _Hypotheses) -> Tensor:
        """Whether each ends here: (B, kept)."""
        if self._length == self._most:
            return torch.ones_like(continued.lengths, dtype=torch.bool)
        ids = continued.ids[:, :, : self._length]
        return self._stops.have_ended(ids.flatten(0, 1)).view(ids.shape[:2])

    def _finish(self, continued: _Hypotheses, has_ended: Tensor) -> None:
        """Those that have ended compete with those that have ended before. Only the best `beams` continuations do: the
        others are there to go on."""
        is_finished = has_ended.clone()
        is_finished[:, self._beams :] = False
        scores = continued.scores / self._length**self._config.length_penalty + ~is_finished * _NEVER
        ended = replace(continued, scores=scores)
        both, are_finished = self._finished.beside(ended), torch.cat([self._is_finished, is_finished], 1)
        places = both.scores.topk(self._beams).indices
        self._finished, self._is_finished = both[places], are_finished.gather(1, places)

    def _cannot_improve(self) -> Tensor:
        """Whether no running hypothesis of a group can become better than those that have ended: (B)."""
        if self._config.early_stopping is True:
            is_full = self._is_finished.all(1)
        else:
            is_full = torch.zeros(len(self._is_finished), dtype=torch.bool, device=self._device)
        penalty = self._config.length_penalty
        longest = self._most if self._config.early_stopping == "never" and penalty > 0 else self._length
        best = self._running.scores[:, :1] / longest**penalty
        worst = torch.where(self._is_finished, self._finished.scores.amin(1, keepdim=True), _NEVER)
        return is_full | ~(best > worst).any(1)

    def _go_on(self, beams: Tensor, is_over: Tensor) -> None:
        """Hands over the texts of groups whose search is over, and drops their rows."""
        for place in is_over.nonzero()[:, 0].tolist():
            self.found[self._running_groups[place] // self._groups] += self._finished.written(place)
        goes_on = (~is_over).nonzero()[:, 0].tolist()
        if not goes_on:
            self._running_groups = []
            return
        self._rows = self._seated(self._rows.gather(1, beams))
        if len(goes_on) < len(self._running_groups):
            order = self._batch.keep([place * self._beams + beam for place in goes_on for beam in range(self._beams)])
            self._select(torch.tensor([row // self._beams for row in order[:: self._beams]], device=self._device))
        tokens = self._running.ids[:, :, self._length - 1]
        self._batch.step(tokens.new_empty(tokens.shape).scatter_(1, self._rows, tokens).flatten())

    def _seated(self, continued: Tensor) -> Tensor:
        """The row of each hypothesis, among those of its group, where it goes on with this row: (B, H) both. It stays
        there, unless a better one does. Only the others are copied."""
        rows, copied = list[list[int]](), list[int]()
        for own in continued.tolist():
            first = len(copied)
            rows.append(_seats(own))
            copied += range(first, first + self._beams)
            for row, source in zip(rows[-1], own, strict=True):
                copied[first + row] = first + source
        self._batch.reorder(copied)
        return torch.tensor(rows, device=self._device)

    def _select(self, groups: Tensor) -> None:
        self._running_groups = [self._running_groups[place] for place in groups.tolist()]
        self._running, self._finished = self._running.of(groups), self._finished.of(groups)
        self._is_finished, self._rows = self._is_finished[groups], self._rows[groups]


def _seats(continued: Sequence[int]) -> list[int]:
    """A row for each hypothesis, where it goes on with this one."""
    vacant = [row for row in range(len(continued)) if row not in continued]
    return [row if row not in continued[:number] else vacant.pop() for number, row in enumerate(continued)]
