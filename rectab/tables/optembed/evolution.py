"""OptEmbed's search for the width of every vocabulary: evolution with the weights frozen.

What differs from the authors' code: the best candidates survive (elitism, so the best fitness never falls); candidates
are tuples, so a recorded best cannot be mutated afterwards; the crossover point lies within the genome; a candidate is
never evaluated twice; and a repair, given with a budget, makes every candidate fit before it is evaluated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Evolution", "evolve"]

Genome = tuple[int, ...]


@dataclass
class Evolution:
    """What a search found.

    Attributes:
        best: the fittest genome.
        fitness: of every genome evaluated.
        history: best fitness so far after every generation.
    """

    best: Genome = ()
    fitness: dict[Genome, float] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)

    def fittest(self, count: int) -> list[Genome]:
        """The ``count`` best genomes so far; ties go to the one found first."""
        return sorted(self.fitness, key=lambda genome: -self.fitness[genome])[:count]


def evolve(
    num_genes: int,
    largest: int,
    evaluate: Callable[[Sequence[Genome]], Sequence[float]],
    *,
    repair: Callable[[Genome], Genome] = lambda genome: genome,
    starts: Sequence[Genome] = (),
    population: int = 20,
    generations: int = 30,
    parents: int = 10,
    mutation_probability: float = 0.1,
    patience: int = 10,
    seed: int = 0,
) -> Evolution:
    """Search genomes of ``num_genes`` integers in ``1 .. largest``.

    Args:
        num_genes: F.
        largest: D.
        evaluate: fitness of some genomes, higher is better; called once a generation.
        repair: makes a genome fit a bound; what it returns is evaluated.
        starts: genomes of the first generation, which random ones fill up.
        population, generations, parents, mutation_probability, patience, seed: see ``OptEmbedConfig``.
    """
    source = random.Random(seed)
    found = Evolution()
    candidates = list(starts) + [_random(source, num_genes, largest) for _ in range(population - len(starts))]
    stale = 0
    for _ in range(generations):
        fresh = [g for g in dict.fromkeys(map(repair, candidates)) if g not in found.fitness]
        if fresh:
            found.fitness.update(zip(fresh, evaluate(fresh), strict=True))
        found.best = found.fittest(1)[0]
        best = found.fitness[found.best]
        stale = stale + 1 if found.history and best <= found.history[-1] else 0
        found.history.append(best)
        if stale >= patience:
            break
        elders = found.fittest(parents)
        mutations = [
            mutate(source, source.choice(elders), largest, mutation_probability) for _ in range((population + 1) // 2)
        ]
        crossovers = [cross(source, *_pair(source, elders)) for _ in range(population // 2)]
        candidates = mutations + crossovers
    return found


def mutate(source: random.Random, genome: Genome, largest: int, probability: float) -> Genome:
    """A copy in which every gene is drawn anew with ``probability``, and at least one is."""
    forced = source.randrange(len(genome))
    return tuple(
        source.randint(1, largest) if index == forced or source.random() < probability else gene
        for index, gene in enumerate(genome)
    )


def cross(source: random.Random, first: Genome, second: Genome) -> Genome:
    """The head of one genome and the tail of another, both at least one gene long (if there is more than one)."""
    if len(first) < 2:
        return second
    cut = source.randrange(1, len(first))
    return first[:cut] + second[cut:]


def _pair(source: random.Random, elders: Sequence[Genome]) -> tuple[Genome, Genome]:
    first, second = source.sample(range(len(elders)), 2) if len(elders) > 1 else (0, 0)
    return elders[first], elders[second]


def _random(source: random.Random, num_genes: int, largest: int) -> Genome:
    return tuple(source.randint(1, largest) for _ in range(num_genes))
