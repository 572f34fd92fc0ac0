"""Review: a job's or a folder's captions beside their pictures, to edit, accept and ask again."""
