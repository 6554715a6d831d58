"""The peers of `benchmarks.serving`, in an environment of their own: none of their packages is a requirement of braid.

python -m benchmarks.peers            makes the environment, as `braid bench serving` does, too

requirements.in, requirements.lock    the packages; `make lock` resolves their versions again
environment                           the environment, installed from the lock
running                               the peers as processes, with the features of braid's answers
prepare, fastapi_server               programs of the peers' environment
bare_server                           a program of braid's own environment
"""
