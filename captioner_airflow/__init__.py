"""What the DAGs share: jobs as processes, forms of options, runners, launchers and the report's place in the UI.

Runs in an Airflow that has neither TensorFlow nor Beam: of captioner_core it imports ``options``,
``layout`` and ``errors`` alone, which need nothing but Python.
"""
