"""Ranking: many candidates in the old backbone's place, by what they cost and how well they serve."""

from autoadapt.ranking.rankings import rank
from autoadapt.ranking.results import Ranked, Ranking

__all__ = ["Ranked", "Ranking", "rank"]
