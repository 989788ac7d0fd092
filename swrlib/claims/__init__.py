"""From records to verdicts, a file a chapter: pure functions that are tested on made-up records.

What holds for accuracies in every chapter is in `swrlib.verdicts`.
"""
