"""Aggregations as commutative monoids over partials, with a module per family.

    monoid      the interface of an aggregation: lift, join, fold, value
    sums        Count, Sum, Mean, Variance, StdDev      exact sums of integers
    extremes    Min, Max
    latest      Last, LastK, SinceLast                  the events with the latest times
    distinct    Distinct, ApproxDistinct                sets of hashes, and sketches
    frequent    TopK                                    counts by value

After Chronon's aggregators (https://github.com/airbnb/chronon, `aggregator/`) and the monoids of Twitter's Algebird.
"""

from features.aggregations.distinct import ApproxDistinct, Distinct
from features.aggregations.extremes import Max, Min
from features.aggregations.frequent import TopK
from features.aggregations.latest import TIME_UNITS_MS, Last, LastK, SinceLast
from features.aggregations.monoid import Aggregation, Ints, Partial, Series, Value
from features.aggregations.sums import Count, Mean, StdDev, Sum, Variance

__all__ = [
    "TIME_UNITS_MS", "Aggregation", "ApproxDistinct", "Count", "Distinct", "Ints", "Last", "LastK", "Max", "Mean", "Min", "Partial",
    "Series", "SinceLast", "StdDev", "Sum", "TopK", "Value", "Variance",
]  # fmt: skip
