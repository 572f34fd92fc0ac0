"""OpenAI's files and batches: kept on disk, worked through one after the other, resumed."""
