"""The base of every process: settings, the import of the project, clients of Kafka, Spark sessions, and the embedded services."""
