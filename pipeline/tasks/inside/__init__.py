"""What runs inside the sandbox: started by file path, imports nothing else of the pipeline."""
