"""Benchmarks put to models: problems, prompts and graders; models opened and asked; runs kept.

Nothing here knows how a checkpoint was refined. From the command to the answer and back:

=====================  ========================================================================
``run``                one evaluation from end to end; ``planning`` and ``needs`` come before it
``asking``             requests to one model; ``committing`` writes, ``interruption`` ends them
``units``, ``store``   whose answers may lie together, and where: ``journal``, ``inspect_log``
``run_files``          the folder of a run; ``results`` its table and summary, ``progress``
---------------------  ------------------------------------------------------------------------
``models``             which model is meant; ``model_files`` and ``sampling`` what is known of it
``backends``           a model opened: ``local_model`` (``local_engine``, ``decoding``,
                       ``loading``), ``server_model`` (``server_probe``), ``vllm_server``
                       (``server_keeper``)
---------------------  ------------------------------------------------------------------------
``task``, ``tasks``    what a benchmark is, and each of them; ``data`` finds their files
``reasoning``          thinking and answer apart
``grading``            judging in worker processes (``grade_worker``, ``pipes``), with
                       ``math_verified`` and ``latex_answers``
``sandbox``            code from models, in a cage (``sandbox_program``)
---------------------  ------------------------------------------------------------------------
``readers``            rollouts of other tools, and of our own runs
=====================  ========================================================================
"""
