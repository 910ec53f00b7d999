"""Virtual servers as kernel rows, one module per backend. Pure; knows the model and rows, not the cluster."""
