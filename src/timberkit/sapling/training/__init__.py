"""How the Sapling pair was made, and how to make it again.

::

    python -m timberkit.sapling.training --output DIR             # about 12 minutes, one core
    python -m timberkit.sapling.training --output DIR --smoke     # every stage, seconds
    python -m timberkit.sapling.training.measure FOLDER ...       # exact Pass@k of model folders

===================  =======================================================================
``settings``         every step count, learning rate and seed
``corpus``           documents for pretraining and fine-tuning
``supervised``       stages 1 and 2: pretraining, fine-tuning
``reinforcement``    stage 3: policy gradient with a verifiable reward
``tokenizer``        the word-level tokenizer with its chat template
``write``            model folders, problems and model cards
``measure``          exact Pass@k
``run``              the stages in order
===================  =======================================================================

All stages draw from seeded generators and use one thread, so the same machine type and library
versions give the same bytes; other processors round differently and give a similar pair. Needs
the ``eval`` extra (transformers).
"""
