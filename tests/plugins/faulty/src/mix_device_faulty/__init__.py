"""A device whose plugin has the one defect that FAULTY_DEFECT names, and none without it."""
