def conformance_cases(target):
    return []
