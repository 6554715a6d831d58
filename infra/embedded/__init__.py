"""The embedded services: Kafka, Valkey, MLflow, Dagster, serving and the speed layer on one machine, under one supervisor per home."""
