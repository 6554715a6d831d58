"""The checks of assets: of tables by Great Expectations (`tables`, `suites`), of the online store (`online`), of what was served (`served`)."""

from orchestration.checks import online, served, tables

checks = [*tables.checks, *online.checks, *served.checks]
