"""Code that the DAGs share: forms, jobs as processes, runners, launchers and the report in the UI.

It runs in an Airflow environment without TensorFlow and Beam. From ``captioner_core`` it imports
only modules that need nothing but Python, such as ``options``, ``errors`` and ``tables.layout``.
"""
