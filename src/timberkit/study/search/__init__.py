"""Search over spectral filters: most exploration for no loss at Pass@1, confirmed on new problems.

==============  =================================================================================
``candidates``  what is searched: gains by matrix and band, groups of them, simple rules
``factors``     leading directions of every delta, found once
``evaluators``  how candidates are judged: ``exact`` or ``sampled``
``book``        the journal of all evaluations; guards the confirm split
``objective``   what is maximised, and what has to be kept
``halving``     successive halving; ``sequential``: CMA-ES
``settings``    what decides what is found; ``folder``: what lies where
``run``         all steps in order; ``findings`` and ``words``: what came out
==============  =================================================================================
"""
