"""MLflow as a mirror of the records: live while a job trains, completed afterwards.

Nothing here may stop, slow or lose training, and nothing reads numbers back from MLflow.
Importing this package does not import MLflow.
"""
