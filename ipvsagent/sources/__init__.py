"""Where objects come from: the Kubernetes API and files, each followed by a thread that only fills the inbox."""
