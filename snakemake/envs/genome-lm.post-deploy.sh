# Snakemake runs this in the new environment, from the folder that the workflow was started in: the project's.
pip install --no-deps .
