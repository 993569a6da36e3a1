"""What the paper did, for any pair, and the question after it: did it help, and what else does?

From the recipe to the page:

==================  ===========================================================================
``catalogue``       which models: edits, ablations, controls, temperatures
``protocol``        which benchmarks, how they are put, how often
``outlook``         what it will take: steps, disk, requests, hours; nothing is done
------------------  ---------------------------------------------------------------------------
``folder``          the folder of a study: its recipe, its lock, its ledger of finished steps
``making``          models, written in one pass or one by one, and deleted again
``asking``          scores: exact probabilities where they are known, else rollouts
``run``             the steps in their order, each of which can be killed and continued
------------------  ---------------------------------------------------------------------------
``scores``          probabilities or counts -> one score for each problem and k
``effects``         contrasts, crossings, the trade-off plane, controls
``selection``       lambda chosen as the paper did, and on held-out halves
``paper_tables``    the paper's tables and figures with ours beside the published numbers
``words``           the findings in plain sentences
``conclude``        all of it together: ``findings.Findings``
``files``           results.json, tables, figures and the page
==================  ===========================================================================
"""
