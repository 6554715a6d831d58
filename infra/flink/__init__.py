"""Apache Flink on this machine: the distribution, in an environment of its own, and the files of its cluster.

requirements.in, requirements.lock    the packages; `make lock` resolves their versions again
distribution                          the environment, installed from the lock, with the connector of Kafka
cluster                               the configuration and the commands of the two programs, and of the SQL client
"""
